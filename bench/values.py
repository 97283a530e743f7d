"""The vocabulary: values that flow through the benchmark and the protocols its parts satisfy.

    Poison a DATASET with an ATTACK, clean it with a DEFENSE, train a BACKBONE on it under a WEIGHTING,
    score every task.

Shapes, throughout: n images of a split, b of a batch, c channels, h height, w width, t tasks, k classes,
o outputs of one head, d features. Images are stored as uint8 and computed with as float32 in [0, 1];
a perturbation δ is in the same unit, so that the budget ε of 8/255 reads 0.0314.

A *part* is a frozen dataclass: its fields are its hyperparameters with the paper's defaults, and
``version`` is raised whenever its results change. State lives in what a part returns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

EPSILON = 8
"""The field's budget: the largest change of a pixel, in steps of 1/255."""

MISSING = -1
"""The label of a sample that has none for a task; losses and metrics leave it out."""

Targets = Mapping[str, Tensor]
"""Task name → one target per image.

Classification: int64 [n], `MISSING` where there is no label. Dense tasks have one value per pixel:
segmentation int8 [n h w], `MISSING` where there is none; depth float [n 1 h w], in meters, and normals float
[n 3 h w], of length 1, x to the right, y down, z away from the camera; both NaN where there is none.
"""

Kind = Literal["classification", "segmentation", "depth", "normals"]
"""What a task asks of an image."""

DENSE: frozenset[Kind] = frozenset({"segmentation", "depth", "normals"})
"""Kinds of tasks that ask for a value at every pixel."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


def ignore_progress(what: str, done: int, total: int) -> None:
    """Show no progress."""


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
        mixed: other targets, of images that were mixed in; None: none were.
        share: of the loss, what is that of ``targets``; the rest is that of ``mixed``.
        progress: share of a training's epochs that are over.
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
        stl_epochs: those of a network that has one task only; None: as many.
        batch: images per step.
        learning_rate: Adam's.
        weight_decay: Adam's, coupled (L2).
        milestones: fractions of the epochs after which the learning rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        clip_norm: gradients are scaled down to this norm.
    """

    epochs: Annotated[int, Ge(1)] = 60
    stl_epochs: Annotated[int, Ge(1)] | None = None
    batch: Annotated[int, Ge(1)] = 512
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    milestones: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.6, 0.8)
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    clip_norm: Annotated[float, Gt(0)] = 5.0


class NoCheckpoint:
    """Notes nothing."""

    def load(self) -> None:
        """Return None."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Do nothing."""


Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
