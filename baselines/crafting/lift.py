"""From noise for one task to noise for many: which pixels carry which task's signal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from baselines.crafting.noise_table import Rows
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
"""Draws a task's signals [m c h w] for these rows of the training set and their labels, none of them missing,
at its cell's `signal_size`."""

T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class ImageCell:
    """A rectangle of the image, in pixels, that carries every ``stride``-th value of its signal."""

    top: int
    left: int
    height: int
    width: int
    stride: int = 1

    @property
    def signal_size(self) -> tuple[int, int]:
        """Height and width of the signal that is drawn for the cell."""
        return self.height * self.stride, self.width * self.stride

    def subsample(self, signal: Float[Tensor, "*m H W"]) -> Float[Tensor, "*m h w"]:
        """Return the values of a signal that the cell carries."""
        return signal[..., :: self.stride, :: self.stride]

    def crop(self, images: Shaped[Tensor, "*m H W"]) -> Shaped[Tensor, "*m h w"]:
        """Return the cell's part of images or maps, as a view."""
        return images[..., self.top : self.top + self.height, self.left : self.left + self.width]


def equal_cells(count: int, height: int, width: int) -> list[ImageCell]:
    """Cut an image into ``count`` cells of nearly equal size that use every pixel.

    The cells are in round(√count) rows; the cells of a row share its width.
    """
    rows = max(1, round(count**0.5))
    cells: list[ImageCell] = []
    tops = [height * r // rows for r in range(rows + 1)]
    for row, (top, bottom) in enumerate(pairwise(tops)):
        columns = count // rows + (row < count % rows)
        lefts = [width * c // columns for c in range(columns + 1)]
        cells += [ImageCell(top, left, bottom - top, right - left) for left, right in pairwise(lefts)]
    return cells


def official_cells(count: int, height: int, width: int) -> list[ImageCell]:
    """Cut an image as the public code does.

    A centered grid of N = 2^⌈log2⌈√count⌉⌉ cells per side, filled row by row. A signal is drawn at the size
    of the whole grid, and its cell carries every N-th row and column of it. This destroys relations between
    neighboring values, such as the recurrence of AR (LSP's patches only become smaller), and leaves cells
    without noise (24 of 64 for 40 tasks).

    Source: public code of Yu et al., ICML 2025 (MTL-UE), "patch"
    """
    side = 1 << math.ceil(math.log2(math.ceil(math.sqrt(count))))
    tall, wide = height // side, width // side
    top, left = (height - tall * side) // 2, (width - wide * side) // 2
    cells = (divmod(number, side) for number in range(count))
    return [ImageCell(top + row * tall, left + column * wide, tall, wide, side) for row, column in cells]


@dataclass(frozen=True)
class Layout(Generic[T]):
    """Which task's signal is in which cell.

    Attributes:
        tasks: those that have a label somewhere in the training set; the others get no cell.
        cells: one cell per task.
        scale: factor of every signal.
    """

    tasks: tuple[T, ...]
    cells: tuple[ImageCell, ...]
    scale: float


def assign_cells(tasks: Sequence[T], mode: Lift, train: Split) -> Layout[T]:
    """Give every task that has a label somewhere in the training set its cell of the images.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, baselines "patch" and "average"

    Departs from the paper: the paper's ``patch`` is that of `official_cells`; here ``patch`` uses all pixels
    and draws each task's signal at its cell's own size, which keeps its structure.

    Raises:
        BenchError: when the image has fewer pixels than the cells need.
    """
    labeled = tuple(task for task in tasks if bool(task.labeled(train.targets[task.name]).any()))
    height, width = train.images.shape[-2:]
    if not labeled or mode == "average":
        whole = ImageCell(0, 0, height, width)
        return Layout(labeled, (whole,) * len(labeled), 1 / max(1, len(labeled)))
    cut_image = equal_cells if mode == "patch" else official_cells
    cells = tuple(cut_image(len(labeled), height, width))
    if min(min(cell.height, cell.width) for cell in cells) == 0:
        raise BenchError(
            f"images of {height}×{width} have no pixel for each of {len(labeled)} tasks; "
            f'set lift = "average" instead of "{mode}"'
        )
    return Layout(labeled, cells, 1.0)


@dataclass(frozen=True, eq=False)
class ClasswiseNoise:
    """One pattern per task and class; an image gets those of its labels.

    For a dense task every pixel has the value of its own class's pattern there.

    Attributes:
        tasks: the tasks whose labels choose the patterns.
        cells: one cell per task.
        patterns: per task [k+1 c h w], at its cell's size; the last row is zero, for a missing label.
        scale: factor of every pattern.
    """

    tasks: tuple[Task, ...]
    cells: tuple[ImageCell, ...]
    patterns: tuple[Tensor, ...]
    scale: float

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ: every task adds the pattern of its label in its cell."""
        delta = torch.zeros_like(batch.images)
        for task, cell, pattern in zip(self.tasks, self.cells, self.patterns, strict=True):
            labels = task.class_labels(batch.targets[task.name])
            chosen = pattern_per_pixel(pattern, cell.crop(labels)) if task.kind in DENSE else pattern[labels]
            cell.crop(delta).add_(self.scale * chosen)
        return delta


def pattern_per_pixel(
    pattern: Float[Tensor, "k c h w"], labels: Int64[Tensor, "b h w"]
) -> Float[Tensor, "b c h w"]:
    """Return, for every pixel, the value of its own class's pattern there."""
    rows, columns = (torch.arange(side, device=labels.device) for side in labels.shape[1:])
    return pattern[labels, :, rows[:, None], columns].permute(0, 3, 1, 2)


def lift_classwise(tasks: Sequence[Task], mode: Lift, train: Split, draw: Draw) -> ClasswiseNoise:
    """Draw a pattern for every class of every labeled task; each task's patterns go into its cell."""
    layout = assign_cells(tasks, mode, train)
    patterns = []
    for task, cell in zip(layout.tasks, layout.cells, strict=True):
        values = cell.subsample(draw(task.classes, *cell.signal_size))
        patterns.append(torch.cat([values, torch.zeros_like(values[:1])]))
    return ClasswiseNoise(layout.tasks, layout.cells, tuple(patterns), layout.scale)


def lift_samplewise(
    train: Split, layout: Layout[T], signals: Sequence[Signal], context: CraftContext
) -> Rows:
    """Draw a signal for every label of every image; each task's signals go into its cell.

    Args:
        train: the training set.
        layout: the cell of every task.
        signals: one function per task of the layout.
        context: what the attacker has besides the images.
    """
    noise = Rows(train)
    context.progress("image", 0, len(train))
    tasks_of_cell: dict[ImageCell, list[tuple[T, Signal]]] = {}
    for task, cell, signal in zip(layout.tasks, layout.cells, signals, strict=True):
        tasks_of_cell.setdefault(cell, []).append((task, signal))
    for number, (cell, tasks) in enumerate(tasks_of_cell.items()):
        height, width = cell.signal_size
        # Images of one class together: a signal may be faster to draw for many of them.
        order = train.targets[tasks[0][0].name].argsort(stable=True)
        done = number * len(train)
        for index in order.split(rows_per_chunk(train.images[..., :height, :width])):
            shape = (len(index), train.images.shape[1], cell.height, cell.width)
            delta = torch.zeros(shape, device=context.device)
            for task, signal in tasks:
                labels = train.targets[task.name][index]
                (chosen,) = torch.where(labels != MISSING)
                if len(chosen):
                    values = cell.subsample(signal(index[chosen], labels[chosen]))
                    delta.index_add_(0, chosen.to(context.device), layout.scale * values)
            noise.set_rows(index, delta, cell.top, cell.left)
            done += len(index)
            context.progress("image", done // len(tasks_of_cell), len(train))
    return noise
