"""The values that parts pass to each other: images, targets, batches, recipes, contexts.

Shapes, throughout: n images of a split, b of a batch, c channels, h height, w width, t tasks, k classes,
o outputs of one head, d features. Images are stored as uint8 and computed with as float32 in [0, 1];
a perturbation δ is in the same unit, so that the budget ε of 8/255 reads 0.0314.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from bench.tasks.protocol import DENSE, MISSING, Kind, Task

__all__ = [
    "DEFAULT_EPSILON",
    "DENSE",
    "EPSILON",
    "L2_VALUES",
    "MISSING",
    "Augmentation",
    "Batch",
    "Budget",
    "Checkpoint",
    "CountPass",
    "CraftContext",
    "Kind",
    "MultiTaskData",
    "NoCheckpoint",
    "Norm",
    "Precision",
    "Progress",
    "Recipe",
    "Shape",
    "Split",
    "Step",
    "Targets",
    "default_budget",
    "ignore_pass",
    "ignore_progress",
]

EPSILON = 8
"""The field's budget: the largest change of a pixel, in steps of 1/255."""

L2_VALUES = 3 * 32 * 32
"""Number of values of an image whose change may have the ℓ2 norm ε; d values have √(d / 3072) times it."""

Norm = Literal["linf", "l2"]
"""What a budget limits: ``linf``, the change of every value; ``l2``, the norm of an image's change."""

DEFAULT_EPSILON: Mapping[Norm, float] = {"linf": EPSILON, "l2": 1.0}
"""The budget of each norm, in the unit of `Budget`. Attacks state their strengths for it."""

Targets = Mapping[str, Tensor]
"""Task name → one target per image.

Classification: int64 [n], `MISSING` where there is no label. Dense tasks have one value per pixel:
segmentation int8 [n h w], `MISSING` without a label; depth float [n 1 h w], in meters, and normals float
[n 3 h w], of length 1, x to the right, y down, z away from the camera; both NaN without a label.
"""

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

Precision = Literal["float32", "bf16"]
"""What networks multiply in; weights and losses are float32 in any case."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


ReportAim = Callable[[float, float], None]
"""Called as ``report_aim(loss, hit_rate)``."""


CountPass = Callable[[Tensor, bool], None]
"""Called as ``count_pass(output, is_training)`` with a network's output for a batch of images."""


def ignore_progress(what: str, done: int, total: int) -> None:
    """Show no progress."""


def ignore_aim(loss: float, hit_rate: float) -> None:
    """Keep nothing of it."""


def ignore_pass(output: Tensor, is_training: bool) -> None:
    """Count nothing."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with one target per task.

    Attributes:
        images: uint8 [n c h w]; may be memory-mapped, so never written to.
        targets: task name → one target per image, see `Targets`.
    """

    images: UInt8[Tensor, "n c h w"]
    targets: Targets

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples of a split, on the device.

    Attributes:
        images: in [0, 1].
        targets: as in `Targets`; label maps are int64 here, depth and normals float32.
        index: the samples' rows in the split.
        mixed: targets of the images that were mixed in; None: no images were.
        share: weight of the loss on ``targets``; the rest is that of the loss on ``mixed``.
        progress: share of the training's epochs that are done.
    """

    images: Float[Tensor, "b c h w"]
    targets: Targets
    index: Int64[Tensor, " b"]
    mixed: Targets | None = None
    share: float = 1.0
    progress: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """Random crop to ``crop`` pixels a side (None: whole image) and random flip, drawn per image.

    At test time the crop is the central one and nothing is flipped.
    """

    crop: int | None = None
    flip: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's for CelebA and UTKFace.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1: Adam, 60 epochs, learning rate ÷10 at 36 and 48;
    epochs of single-task networks: its public code

    Attributes:
        epochs: passes over the training set.
        stl_epochs: epochs of a network with one task only; None: the same as ``epochs``.
        batch: images per step.
        learning_rate: Adam's.
        weight_decay: Adam's, coupled (L2).
        milestones: fractions of the epochs after which the learning rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        clip_norm: gradients with a larger norm are scaled down to this one.
    """

    epochs: Annotated[int, Ge(1)] = 60
    stl_epochs: Annotated[int, Ge(1)] | None = None
    batch: Annotated[int, Ge(1)] = 512
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    milestones: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.6, 0.8)
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    clip_norm: Annotated[float, Gt(0)] = 5.0


@dataclass(frozen=True, eq=False)
class MultiTaskData:
    """A loaded dataset.

    Attributes:
        tasks: what is asked about every image.
        train: the images that are published.
        test: the images victims are scored on.
        augmentation: the crops and flips that its labels allow.
        notes: remarks on what was read, one sentence each, such as which files were left out.
        cached_in: the folder of decoded images that all images and label maps are mapped from, as
            `bench.datasets.cache` returns it; None if they are not.
    """

    tasks: tuple[Task, ...]
    train: Split
    test: Split
    augmentation: Augmentation = field(default_factory=Augmentation)
    notes: tuple[str, ...] = ()
    cached_in: Path | None = None


@runtime_checkable
class Checkpoint(Protocol):
    """Saves the state of a long crafting, which resumes from it after it was killed."""

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last, None at the start."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save a state, a tree of tensors and plain values; skipped if the last one is recent."""


class NoCheckpoint:
    """Saves nothing."""

    def load(self) -> None:
        """Return None."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Budget:
    """How far released images may be from the clean ones.

    Source: ℓ2: Sandoval-Segura et al., NeurIPS 2022, arXiv:2206.03693 (1.0 on images of 3·32·32 values)

    Attributes:
        norm: what is limited.
        epsilon: of ``linf`` in whole steps of 1/255; of ``l2`` in [0, 1] pixel units per `L2_VALUES` values.
    """

    norm: Norm
    epsilon: int | float

    @property
    def pixel_epsilon(self) -> float:
        """Epsilon in [0, 1] pixel units."""
        return self.epsilon / 255 if self.norm == "linf" else self.epsilon

    def __str__(self) -> str:
        """Return it as a message shows it."""
        return f"{self.epsilon}/255" if self.norm == "linf" else f"ℓ2 norm {self.epsilon} per 3·32·32 values"


def default_budget(norm: Norm | None) -> Budget | None:
    """Return the budget of `DEFAULT_EPSILON` for what an attack's budget limits; None without one."""
    return None if norm is None else Budget(norm, DEFAULT_EPSILON[norm])


@dataclass(frozen=True, eq=False)
class CraftContext:
    """What an attacker has besides the images.

    Attributes:
        tasks: the tasks of the training set.
        augmentation: the augmentation that the attacker expects a victim to use.
        epsilon: the budget ε in [0, 1] pixel units: the largest change of a value, or for an attack with the
            norm ``l2`` the largest norm of δ per `L2_VALUES` values; 1 for an attack without a budget.
        new_surrogate: builds an untrained multi-task network of the surrogate's architecture.
        surrogate_snapshots: ``surrogate_snapshots(n)`` returns the same network at n (or all, if there are
            fewer) equidistant points of its training on the clean data, the trained one last; only for an
            attack that sets ``needs_surrogate``.
        device: where to compute.
        progress: to be called once per step that takes noticeable time.
        checkpoint: saves how far the crafting has come.
        report_aim: to be called at the end by an attack with surrogates: its loss on them, and the share of
            the labels on which they do what it wants.
        norm: what the budget limits; None for an attack without one.
        count_pass: to be called with the output of every pass of images through a network that the attack
            builds itself; passes through surrogates are counted anyway.
    """

    tasks: tuple[Task, ...]
    augmentation: Augmentation
    epsilon: float
    new_surrogate: Callable[[], nn.Module]
    surrogate_snapshots: Callable[[int], Sequence[nn.Module]]
    device: torch.device
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    report_aim: ReportAim = ignore_aim
    norm: Norm | None = "linf"
    count_pass: CountPass = ignore_pass

    def scale_strength(self, strength: float) -> float:
        """Return a strength in [0, 1] pixel units that is given in 1/255 for the budget `DEFAULT_EPSILON`.

        With another budget it is in proportion: half of it at half the budget.
        """
        if self.norm == "l2":
            return strength / 255 * self.epsilon / DEFAULT_EPSILON["l2"]
        return strength / EPSILON * self.epsilon


@dataclass(frozen=True, eq=False)
class Step:
    """What a weighting has of one training step.

    Attributes:
        losses: the loss of every task, 0 if the batch has no label of it.
        labeled: which tasks have a label in the batch.
        features: the input of all heads; the losses' gradients reach the shared parameters through it.
        shared: the parameters below the features, those of the last layer last.
        recompute_losses: computes the losses of the batch again, with the current parameters, for weightings
            that measure what the step has changed.
    """

    losses: Float[Tensor, " t"]
    labeled: Bool[Tensor, " t"]
    features: Float[Tensor, "b ..."]
    shared: Sequence[nn.Parameter]
    recompute_losses: Callable[[], Float[Tensor, " t"]]
