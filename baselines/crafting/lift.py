"""Lifting single-task noise to many tasks: which pixels carry which task's signal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from baselines.crafting.table import Rows
from bench.api import CraftContext, Task
from bench.errors import BenchError
from bench.memory import rows_per_chunk
from bench.values import DENSE, MISSING, Batch, Split

Lift = Literal["patch", "average", "patch-official"]
"""``patch``: every task has a cell of the image; ``average``: the mean of whole-image signals;
``patch-official``: the cells of the public code, see `official_cells`."""

Draw = Callable[[int, int, int], Tensor]
"""Draws patterns [k c h w] for k classes at a height and a width."""

Signal = Callable[[Int64[Tensor, " m"], Int64[Tensor, " m"]], Tensor]
"""A task's own signals [m c h w] for these rows of the training set and their labels, none of them missing,
at the size its cell is `drawn`."""

T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class ImageCell:
    """A rectangle of the image, in pixels; of the signal drawn for it, it shows every ``stride``-th value."""

    top: int
    left: int
    height: int
    width: int
    stride: int = 1

    @property
    def drawn(self) -> tuple[int, int]:
        """Height and width at which a signal is drawn for the cell."""
        return self.height * self.stride, self.width * self.stride

    def show(self, signal: Float[Tensor, "*m H W"]) -> Float[Tensor, "*m h w"]:
        """Return what the cell shows of a signal."""
        return signal[..., :: self.stride, :: self.stride]

    def of(self, images: Shaped[Tensor, "*m H W"]) -> Shaped[Tensor, "*m h w"]:
        """Return the cell's part of images or maps, as a view."""
        return images[..., self.top : self.top + self.height, self.left : self.left + self.width]


def densest_cells(count: int, height: int, width: int) -> list[ImageCell]:
    """Cut an image into ``count`` cells of nearly equal size that use every pixel.

    The cells stand in round(√count) rows; a row's cells share its width.
    """
    rows = max(1, round(count**0.5))
    cut: list[ImageCell] = []
    tops = [height * r // rows for r in range(rows + 1)]
    for row, (top, bottom) in enumerate(pairwise(tops)):
        columns = count // rows + (row < count % rows)
        lefts = [width * c // columns for c in range(columns + 1)]
        cut += [ImageCell(top, left, bottom - top, right - left) for left, right in pairwise(lefts)]
    return cut


def official_cells(count: int, height: int, width: int) -> list[ImageCell]:
    """Cut an image as the public code does.

    A centered grid of N = 2^⌈log2⌈√count⌉⌉ cells a side, filled row by row. A signal is drawn at the size of
    the whole grid, and its cell shows every N-th row and column of it. This destroys what neighboring values
    have to do with each other, such as the recurrence of AR (LSP's patches only become smaller), and leaves
    cells without noise (24 of 64 for 40 tasks).

    Source: public code of Yu et al., ICML 2025 (MTL-UE), "patch"
    """
    side = 1 << math.ceil(math.log2(math.ceil(math.sqrt(count))))
    tall, wide = height // side, width // side
    top, left = (height - tall * side) // 2, (width - wide * side) // 2
    places = (divmod(number, side) for number in range(count))
    return [ImageCell(top + row * tall, left + column * wide, tall, wide, side) for row, column in places]


@dataclass(frozen=True)
class Layout(Generic[T]):
    """Which task's signal lies where.

    Attributes:
        tasks: those that have a label somewhere in the training set; the others get no room.
        places: one cell per task.
        scale: factor of every signal.
    """

    tasks: tuple[T, ...]
    places: tuple[ImageCell, ...]
    scale: float


def assign_cells(tasks: Sequence[T], mode: Lift, train: Split) -> Layout[T]:
    """Give every task that has a label somewhere in the training set its place in the images.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, baselines "patch" and "average"

    Departs from the paper: the paper's ``patch`` is that of `official_cells`; here ``patch`` uses all pixels
    and draws each task's signal at its cell's own size, so that its inner structure is kept.

    Raises:
        BenchError: when the image has too few pixels for so many cells.
    """
    labeled = tuple(task for task in tasks if bool(task.labeled(train.targets[task.name]).any()))
    height, width = train.images.shape[-2:]
    if not labeled or mode == "average":
        whole = ImageCell(0, 0, height, width)
        return Layout(labeled, (whole,) * len(labeled), 1 / max(1, len(labeled)))
    cut = densest_cells if mode == "patch" else official_cells
    places = tuple(cut(len(labeled), height, width))
    if min(min(place.height, place.width) for place in places) == 0:
        raise BenchError(
            f"images of {height}×{width} have no pixel for each of {len(labeled)} tasks; "
            f'set lift = "average" instead of "{mode}"'
        )
    return Layout(labeled, places, 1.0)


@dataclass(frozen=True, eq=False)
class ClasswiseNoise:
    """One pattern per task and class, laid over the image by the sample's labels.

    Of a dense task every pixel takes the value that the pattern of its own class has there.

    Attributes:
        tasks: whose labels choose.
        places: one cell per task.
        patterns: per task [k+1 c h w], at its cell's size; the last row is zero, for a missing label.
        scale: factor of every pattern.
    """

    tasks: tuple[Task, ...]
    places: tuple[ImageCell, ...]
    patterns: tuple[Tensor, ...]
    scale: float

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ: every task adds the pattern of its label in its cell."""
        delta = torch.zeros_like(batch.images)
        for task, place, pattern in zip(self.tasks, self.places, self.patterns, strict=True):
            labels = task.class_labels(batch.targets[task.name])
            chosen = per_pixel(pattern, place.of(labels)) if task.kind in DENSE else pattern[labels]
            place.of(delta).add_(self.scale * chosen)
        return delta


def per_pixel(pattern: Float[Tensor, "k c h w"], labels: Int64[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
    """Return, for every pixel, what the pattern of its own class has there."""
    rows, columns = (torch.arange(side, device=labels.device) for side in labels.shape[1:])
    return pattern[labels, :, rows[:, None], columns].permute(0, 3, 1, 2)


def lift_classwise(tasks: Sequence[Task], mode: Lift, train: Split, draw: Draw) -> ClasswiseNoise:
    """Draw a pattern for every class of every labeled task and lay them out over the image."""
    layout = assign_cells(tasks, mode, train)
    patterns = []
    for task, place in zip(layout.tasks, layout.places, strict=True):
        shown = place.show(draw(task.classes, *place.drawn))
        patterns.append(torch.cat([shown, torch.zeros_like(shown[:1])]))
    return ClasswiseNoise(layout.tasks, layout.places, tuple(patterns), layout.scale)


def lift_samplewise(
    train: Split, layout: Layout[T], signals: Sequence[Signal], context: CraftContext
) -> Rows:
    """Draw a signal for every image and task of the layout, where it has a label, and lay them out.

    Args:
        train: the training set.
        layout: which task's signal lies where.
        signals: one per task of the layout.
        context: the attacker's means.
    """
    noise = Rows(train)
    context.progress("image", 0, len(train))
    for index in torch.arange(len(train)).split(rows_per_chunk(train.images)):
        delta = torch.zeros(len(index), *train.images.shape[1:], device=context.device)
        for task, place, signal in zip(layout.tasks, layout.places, signals, strict=True):
            labels = train.targets[task.name][index]
            chosen = labels != MISSING
            if chosen.any():
                shown = place.show(signal(index[chosen], labels[chosen]))
                place.of(delta)[chosen.to(context.device)] += layout.scale * shown
        noise.put(index, delta)
        context.progress("image", int(index[-1]) + 1, len(train))
    return noise
