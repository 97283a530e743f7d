"""What a surrogate-based attack aims at: which labels, against which surrogates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from baselines.craft import perturb
from bench.api import MISSING, Batch, CraftContext, Noise, Split, Task
from bench.augmentation import augment, center
from bench.tasks import classification_only
from bench.training import batches, task_losses


@dataclass(frozen=True)
class SurrogateTraining:
    """How a surrogate is trained along with the noise.

    Attributes:
        steps: mini-batches between two passes of noise improvement.
        batch: images per step.
        optimizer: ``sgd`` with momentum 0.9, or ``adam``.
        learning_rate: the optimiser's.
        weight_decay: the optimiser's, coupled (L2).
        clip_norm: gradients are scaled down to this norm.
        shuffle: draw a new order for every pass.
    """

    steps: int
    batch: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    weight_decay: float
    clip_norm: float
    shuffle: bool


class ErrorMinimising:
    """Make the true labels easy for a surrogate that is trained on the perturbed images themselves.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, Eq. 2; many tasks: the mean of their losses
    (Yu et al., ICML 2025)
    """

    def __init__(
        self,
        train: Split,
        context: CraftContext,
        training: SurrogateTraining,
        *,
        augmented: bool,
        surrogate_first: bool,
    ) -> None:
        """Start from an untrained surrogate; ``augmented`` shows it crops and flips, else whole images."""
        self.surrogate_first = surrogate_first
        self._tasks = context.tasks
        self._augmentation = context.augmentation if augmented else None
        self._training = training
        self._surrogate = context.new_surrogate()
        self._optimizer = self._new_optimizer()
        self._stream = _endless(train, context, training)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters, how = self._surrogate.parameters(), self._training
        if how.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)
        return torch.optim.SGD(parameters, lr=how.learning_rate, momentum=0.9, weight_decay=how.weight_decay)

    def loss(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Return the mean loss of the true labels, the surrogate frozen and in evaluation mode."""
        self._surrogate.eval().requires_grad_(False)
        return task_losses(
            self._surrogate, self._tasks, self._view(batch.images, delta), batch.targets
        ).mean()

    def _view(self, images: Tensor, delta: Tensor) -> Tensor:
        seen = perturb(images, delta)
        return seen if self._augmentation is None else augment(seen, self._augmentation)

    def train_surrogate(self, noise: Noise) -> None:
        """Train the surrogate for a few mini-batches of perturbed images, in training mode."""
        self._surrogate.train().requires_grad_(True)
        for _ in range(self._training.steps):
            batch = next(self._stream)
            with torch.no_grad():
                images = self._view(batch.images, noise.delta(batch))
            self._optimizer.zero_grad(set_to_none=True)
            task_losses(self._surrogate, self._tasks, images, batch.targets).mean().backward()
            clip_grad_norm_(self._surrogate.parameters(), self._training.clip_norm)
            self._optimizer.step()

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not see yet."""
        seen = perturb(batch.images, delta)
        if self._augmentation is not None:
            seen = center(seen, self._augmentation)
        return share_missed(self._surrogate, self._tasks, Batch(seen, batch.targets, batch.index))


class Targeted:
    """Make a pretrained surrogate see another class: every label y is shifted to (y + ⌊k/2⌋) mod k.

    Source: Fowl et al., NeurIPS 2021, arXiv:2106.10807, section 4 (class-targeted); the shift of half the
    classes, which for two classes is the other one: Yu et al., ICML 2025
    """

    surrogate_first = False

    def __init__(self, context: CraftContext) -> None:
        """Aim at the last checkpoint of the clean surrogate."""
        self._tasks = classification_only(context.tasks, "a targeted attack")
        self._augmentation = context.augmentation
        self._surrogate = context.checkpoints[-1].eval().requires_grad_(False)

    def loss(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Return the mean loss of the shifted labels on crops and flips of the perturbed images."""
        aim = self._shifted(batch)
        seen = augment(perturb(batch.images, delta), self._augmentation)
        return task_losses(self._surrogate, self._tasks, seen, aim.targets).mean()

    def train_surrogate(self, noise: Noise) -> None:
        """Do nothing: the surrogate is pretrained."""

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose shifted label the surrogate does not see yet."""
        seen = center(perturb(batch.images, delta), self._augmentation)
        return share_missed(self._surrogate, self._tasks, replace(self._shifted(batch), images=seen))

    def _shifted(self, batch: Batch) -> Batch:
        shifted = {}
        for task in self._tasks:
            label = batch.targets[task.name]
            moved = (label + task.classes // 2) % task.classes
            shifted[task.name] = torch.where(label == MISSING, label, moved)
        return replace(batch, targets=shifted)


def share_missed(surrogate: torch.nn.Module, tasks: Sequence[Task], batch: Batch) -> Float[Tensor, " b"]:
    """Return, per sample, the share of its labelled tasks that the surrogate gets wrong."""
    outputs = surrogate.eval()(batch.images)
    wrong, labelled = [], []
    for task, out in zip(tasks, outputs, strict=True):
        target = batch.targets[task.name]
        labelled.append(target != MISSING)
        wrong.append((task.predict(out) != target) & labelled[-1])
    return torch.stack(wrong).sum(0) / torch.stack(labelled).sum(0).clamp(min=1)


def _endless(train: Split, context: CraftContext, training: SurrogateTraining) -> Iterator[Batch]:
    """Yield batches for ever: a surrogate phase goes on where the last one stopped."""
    return chain.from_iterable(
        batches(train, training.batch, context.device, training.shuffle) for _ in repeat(None)
    )
