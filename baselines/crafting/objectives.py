"""The aims of attacks with surrogates: which labels are used against which surrogates."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baselines.crafting.loop import LossOfDelta, ObjectiveHooks, State, add_delta
from baselines.crafting.surrogate_training import (
    SurrogateInTraining,
    SurrogateTraining,
    SurrogateView,
    batch_loss,
    central_view,
    freeze_snapshots,
    mean_loss,
    mean_over_labeled_tasks,
    perturb_batch,
    representation_of,
    share_missed,
    surrogate_view,
)
from bench.api import CraftContext, Noise, Task
from bench.tasks.classification import Classification, require_classification
from bench.tasks.labels import labeled_mean, one_hot
from bench.tasks.together import labeled_by_task, wrong_by_task
from bench.training.loaders import ResumableLoader, iterate_batches
from bench.values import Batch, Split


class ErrorMinimizing(ObjectiveHooks):
    """Minimize the loss of the true labels for a surrogate that is trained on the perturbed images.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898; many tasks: the mean of their losses
    (Yu et al., ICML 2025)
    """

    def __init__(
        self,
        train: Split,
        context: CraftContext,
        training: SurrogateTraining,
        *,
        view: SurrogateView,
        surrogate_first: bool,
    ) -> None:
        """Start from an untrained surrogate, trained before or after every pass of noise improvement."""
        self._surrogate_first = surrogate_first
        self._tasks = context.tasks
        self._view: SurrogateView = view
        self._augmentation = context.augmentation
        self._steps = training.steps
        self._surrogate = SurrogateInTraining(context, training)
        self._loader = ResumableLoader(train, training.batch, context.device, training.shuffle)
        self._stream = self._loader.endless()

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the mean loss of the true labels, the surrogate frozen and in evaluation mode."""
        return [partial(self._loss, self._surrogate.frozen(self._central(batch)), batch)]

    def _loss(self, net: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
        return batch_loss(net, self._tasks, self._seen(batch, delta))

    def _seen(self, batch: Batch, delta: Tensor) -> Batch:
        return surrogate_view(perturb_batch(batch, delta), self._view, self._augmentation, self._tasks)

    def before_round(self, noise: Noise) -> None:
        """Train the surrogate, if that comes first."""
        if self._surrogate_first:
            self._train(noise)

    def after_round(self, noise: Noise) -> None:
        """Train the surrogate, if that comes second."""
        if not self._surrogate_first:
            self._train(noise)

    def _train(self, noise: Noise) -> None:
        for _ in range(self._steps):
            batch = next(self._stream)
            with torch.no_grad():
                seen = self._seen(batch, noise.delta(batch))
            self._surrogate.step(seen)

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not predict yet."""
        return share_missed(self._surrogate.net, self._tasks, self._central(perturb_batch(batch, delta)))

    def _central(self, batch: Batch) -> Batch:
        return central_view(batch, self._view, self._augmentation, self._tasks)

    def state(self) -> State:
        """Return the surrogate's training and the position in its batches."""
        return {"surrogate": self._surrogate.state(), "passes": self._loader.state()}

    def load_state(self, state: State) -> None:
        """Resume from a state."""
        self._surrogate.load_state(state["surrogate"])
        self._loader.load_state(state["passes"])


Aim = Literal["shifted", "away"]
"""``shifted``: toward another label; ``away``: from the true one."""


class FixedSurrogate(ObjectiveHooks):
    """Mislead surrogates that were trained on the clean data.

    ``shifted`` makes them predict (y + ⌊k/2⌋) mod k for every label y, which is the other one of two classes;
    for a depth the one half of the range away, for a direction the opposite one. ``away`` makes the loss of
    the true label large.

    Source: Fowl et al., NeurIPS 2021, arXiv:2106.10807, section 4; several snapshots: Chen et al., ICLR
    2023, arXiv:2211.12005 (SEP); the shift by half the classes: Yu et al., ICML 2025
    """

    def __init__(
        self,
        train: Split,
        context: CraftContext,
        surrogates: Sequence[nn.Module],
        *,
        view: SurrogateView,
        aim: Aim = "shifted",
    ) -> None:
        self._tasks: Sequence[Task] = context.tasks
        self._augmentation = context.augmentation
        self._view: SurrogateView = view
        self._surrogates = freeze_snapshots(surrogates, train, context, view)
        self._is_away = aim == "away"

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return one loss per surrogate: of the shifted labels, or minus that of the true ones."""
        aimed = self._aimed_batch(batch)
        return [partial(self._loss, net, aimed) for net in self._surrogates]

    def _loss(self, net: nn.Module, aimed: Batch, delta: Tensor) -> Tensor:
        seen = surrogate_view(perturb_batch(aimed, delta), self._view, self._augmentation, self._tasks)
        loss = batch_loss(net, self._tasks, seen)
        return -loss if self._is_away else loss

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks on which the last surrogate is not misled yet.

        It is misled if it predicts the shifted label, or, with ``away``, any label but the true one.
        """
        aimed = perturb_batch(self._aimed_batch(batch), delta)
        seen = central_view(aimed, self._view, self._augmentation, self._tasks)
        wrong = wrong_by_task(self._tasks, self._surrogates[-1](seen.images), seen.targets)
        missed = 1 - wrong if self._is_away else wrong
        return mean_over_labeled_tasks(missed, labeled_by_task(self._tasks, seen.targets))

    def _aimed_batch(self, batch: Batch) -> Batch:
        """Return the batch with the labels the surrogates are to predict, or the true ones to avoid."""
        if self._is_away:
            return batch
        aimed = {task.name: task.shifted(batch.targets[task.name]) for task in self._tasks}
        return replace(batch, targets={**batch.targets, **aimed})


class FeatureAlignment(FixedSurrogate):
    """Move an image's features to the mean features of its shifted label, for every task.

    The features are the shared representation.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005 (SEP-FA); many tasks: the mean over them, as in the
    public code of Yu et al., ICML 2025
    """

    def __init__(self, train: Split, context: CraftContext, surrogates: Sequence[nn.Module]) -> None:
        """Take the class means of every surrogate's features over the clean training set."""
        super().__init__(train, context, surrogates, view="image")
        self._labeled = require_classification(context.tasks, "feature alignment")
        self._means = {
            id(net): _class_mean_features(net, train, self._labeled, context.device)
            for net in self._surrogates
        }

    def _loss(self, net: nn.Module, aimed: Batch, delta: Tensor) -> Tensor:
        features = representation_of(net)(add_delta(aimed.images, delta))
        distances = []
        for task, means in zip(self._labeled, self._means[id(net)], strict=True):
            target = aimed.targets[task.name]
            apart = (features - means[target.clamp(min=0)]).square().mean(1)
            distances.append(labeled_mean(apart, target))
        return mean_loss(torch.stack(distances), aimed.targets, self._tasks)


@torch.no_grad()
def _class_mean_features(
    net: nn.Module, train: Split, tasks: Sequence[Classification], device: torch.device
) -> list[Float[Tensor, "k d"]]:
    """Return, per task, the mean features of every class; zero for a class that does not occur."""
    sums: list[Tensor] = []
    counts = [torch.zeros(task.classes, device=device) for task in tasks]
    for batch in iterate_batches(train, 512, device, shuffle=False):
        features = representation_of(net)(batch.images)
        if not sums:
            sums = [torch.zeros(task.classes, features.shape[1], device=device) for task in tasks]
        for i, task in enumerate(tasks):
            member = one_hot(batch.targets[task.name], task.classes)
            sums[i] += member.T @ features
            counts[i] += member.sum(0)
    return [total / count.clamp(min=1)[:, None] for total, count in zip(sums, counts, strict=True)]
