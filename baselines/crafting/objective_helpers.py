"""What objectives share: what a surrogate sees of a perturbed image, and means over tasks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from baselines.crafting.loop import State, add_delta
from bench.api import Noise, Task
from bench.training.augmentation import augment, center_crop
from bench.training.loop import labeled_tasks, task_losses
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, Batch, Targets

SurrogateView = Literal["image", "crop", "shared-crop"]
"""What surrogates are shown: the whole image, a crop and flip per image, or one for all of a batch."""


def surrogate_view(
    batch: Batch, view: SurrogateView, augmentation: Augmentation, tasks: Sequence[Task]
) -> Batch:
    """Return images, and their targets, as a surrogate sees them while noise is improved."""
    return batch if view == "image" else augment(batch, augmentation, tasks, shared=view == "shared-crop")


def central_view(
    batch: Batch, view: SurrogateView, augmentation: Augmentation, tasks: Sequence[Task]
) -> Batch:
    """Return images, and their targets, as a surrogate would see them in evaluation."""
    return batch if view == "image" else center_crop(batch, augmentation, tasks)


def perturb_batch(batch: Batch, delta: Float[Tensor, "b c h w"]) -> Batch:
    """Return the batch with x + δ for its images."""
    return replace(batch, images=add_delta(batch.images, delta))


def batch_loss(net: nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, ""]:
    """Return the mean of a network's losses over the tasks that have a label in the batch."""
    losses = task_losses(net, tasks, batch.images, batch.targets)
    return mean_loss(losses, batch.targets, tasks)


def mean_loss(losses: Float[Tensor, " t"], targets: Targets, tasks: Sequence[Task]) -> Float[Tensor, ""]:
    """Return the mean over the tasks that have a label in the batch; the others' losses are 0."""
    return losses.sum() / labeled_tasks(tasks, targets).sum().clamp(min=1)


def mean_over_labeled_tasks(
    missed: Sequence[Float[Tensor, " b"]], labeled: Sequence[Bool[Tensor, " b"]]
) -> Float[Tensor, " b"]:
    """Return, per sample, the mean of what is missed over its labeled tasks; both lists are by task."""
    known = torch.stack(list(labeled))
    return (torch.stack(list(missed)) * known).sum(0) / known.sum(0).clamp(min=1)


def share_missed(surrogate: nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, " b"]:
    """Return, per sample, the share of its labels that the surrogate gets wrong, a mean over its tasks."""
    outputs = surrogate.eval()(batch.images)
    targets = [batch.targets[task.name] for task in tasks]
    wrong = [task.share_wrong(out, target) for task, out, target in zip(tasks, outputs, targets, strict=True)]
    return mean_over_labeled_tasks(
        wrong, [task.labeled(target) for task, target in zip(tasks, targets, strict=True)]
    )


class ObjectiveHooks:
    """The hooks of an objective that does nothing between batches and rounds."""

    def before_round(self, noise: Noise) -> None:
        """Do nothing."""

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Do nothing."""

    def after_round(self, noise: Noise) -> None:
        """Do nothing."""

    def state(self) -> State:
        """Return nothing: it does not change."""
        return {}

    def load_state(self, state: State) -> None:
        """Do nothing."""


def representation_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from images [b c h w] to a surrogate's shared representation [b d]."""
    return cast("MultiTaskNet", net).represent
