"""A surrogate: its view of perturbed images, its loss and error, and its training along with the noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from baselines.crafting.folding import fold_batch_norms
from baselines.crafting.loop import State, add_delta
from bench.api import CraftContext, Task
from bench.tasks.together import labeled_by_task, wrong_by_task
from bench.training.augmentation import augment, center_crop
from bench.training.loaders import iterate_batches
from bench.training.loop import labeled_tasks, task_losses
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, Batch, Split, Targets

SurrogateView = Literal["image", "crop", "shared-crop"]
"""What surrogates see: the whole image, a crop and flip per image, or one crop and flip per batch."""


CHECKED_IMAGES = 4
"""Images on which a surrogate that was made faster is compared with the original."""


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
    missed: Float[Tensor, "t b"], labeled: Bool[Tensor, "t b"]
) -> Float[Tensor, " b"]:
    """Return, per sample, the mean share missed over its labeled tasks, NaN without any."""
    return (missed * labeled).sum(0) / labeled.sum(0)


def share_missed(surrogate: nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, " b"]:
    """Return, per sample, the share of its labels that the surrogate gets wrong, NaN without labels."""
    wrong = wrong_by_task(tasks, surrogate.eval()(batch.images), batch.targets)
    return mean_over_labeled_tasks(wrong, labeled_by_task(tasks, batch.targets))


def representation_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from images [b c h w] to a surrogate's shared representation [b d]."""
    return cast("MultiTaskNet", net).represent


def freeze_surrogate(net: nn.Module, batch: Batch) -> nn.Module:
    """Return a network in evaluation mode, without gradients of its own, that computes the same faster.

    Args:
        net: put in evaluation mode, without gradients of its own, too.
        batch: images as the network sees them, on which the result is checked.
    """
    return fold_batch_norms(net.eval().requires_grad_(False), batch.images[:CHECKED_IMAGES])


def freeze_snapshots(
    nets: Sequence[nn.Module], train: Split, context: CraftContext, view: SurrogateView
) -> list[nn.Module]:
    """Return surrogates that stay as they are, by `freeze_surrogate` on a few training images."""
    first = next(iterate_batches(train, CHECKED_IMAGES, context.device, shuffle=False))
    seen = central_view(first, view, context.augmentation, context.tasks)
    return [freeze_surrogate(net, seen) for net in nets]


@dataclass(frozen=True)
class SurrogateTraining:
    """How a surrogate is trained along with the noise.

    Attributes:
        steps: mini-batches between two passes of noise improvement.
        batch: images per step.
        optimizer: ``sgd`` with momentum 0.9, or ``adam``.
        learning_rate: the optimizer's.
        weight_decay: the optimizer's, coupled (L2).
        clip_norm: gradients with a larger norm are scaled down to this one; None: no clipping.
        shuffle: draw a new order for every pass.
        milestones: surrogate steps after which the learning rate is divided by ten.
    """

    steps: int
    batch: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    shuffle: bool
    milestones: tuple[int, ...] = ()


class SurrogateInTraining:
    """A surrogate that is trained along with the noise, and its optimizer."""

    def __init__(self, context: CraftContext, training: SurrogateTraining) -> None:
        self.net = context.new_surrogate()
        self._frozen: nn.Module | None = None
        self._tasks, self._training = context.tasks, training
        parameters = self.net.parameters()
        self._optimizer: torch.optim.Optimizer
        if training.optimizer == "adam":
            self._optimizer = torch.optim.Adam(
                parameters, lr=training.learning_rate, weight_decay=training.weight_decay
            )
        else:
            self._optimizer = torch.optim.SGD(
                parameters, lr=training.learning_rate, momentum=0.9, weight_decay=training.weight_decay
            )
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, list(training.milestones))

    def frozen(self, batch: Batch) -> nn.Module:
        """Return the network as it is until the next step, as `freeze_surrogate` does."""
        if self._frozen is None:
            self._frozen = freeze_surrogate(self.net, batch)
        return self._frozen

    def step(self, batch: Batch) -> None:
        """Take one optimizer step toward the true labels."""
        self._frozen = None
        self.net.train().requires_grad_(True)
        self._optimizer.zero_grad(set_to_none=True)
        batch_loss(self.net, self._tasks, batch).backward()
        if self._training.clip_norm is not None:
            clip_grad_norm_(self.net.parameters(), self._training.clip_norm)
        self._optimizer.step()
        self._schedule.step()

    def state(self) -> State:
        """Return the network, the optimizer and the schedule."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Resume from a state."""
        self._frozen = None
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
