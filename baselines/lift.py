"""Lifting class-wise patterns to many tasks: which pixels carry which task's pattern."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import Batch
from bench.tasks import Classification

Lift = Literal["patch", "average"]
"""``patch``: every task has a cell of the image; ``average``: the mean of whole-image patterns."""

Draw = Callable[[int, int, int], Tensor]
"""Draws patterns [k c h w] for k classes at a height and a width."""


@dataclass(frozen=True)
class Cell:
    """A rectangle of the image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def cells(count: int, height: int, width: int) -> list[Cell]:
    """Cut an image into ``count`` cells of nearly equal size that use every pixel.

    The cells stand in round(√count) rows; a row's cells share its width.
    """
    rows = max(1, round(count**0.5))
    cut: list[Cell] = []
    tops = [height * r // rows for r in range(rows + 1)]
    for row, (top, bottom) in enumerate(pairwise(tops)):
        columns = count // rows + (row < count % rows)
        lefts = [width * c // columns for c in range(columns + 1)]
        cut += [Cell(top, left, bottom - top, right - left) for left, right in pairwise(lefts)]
    return cut


@dataclass(frozen=True, eq=False)
class ClasswiseNoise:
    """One pattern per task and class, laid over the image by the sample's labels.

    Attributes:
        names: the tasks' names.
        places: one cell per task.
        patterns: per task [k+1 c h w]; the last row is zero, for a missing label.
        scale: factor of every pattern.
    """

    names: tuple[str, ...]
    places: tuple[Cell, ...]
    patterns: tuple[Tensor, ...]
    scale: float

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ: every task adds the pattern of its label in its cell."""
        delta = torch.zeros_like(batch.images)
        for name, place, pattern in zip(self.names, self.places, self.patterns, strict=True):
            rows = slice(place.top, place.top + place.height)
            columns = slice(place.left, place.left + place.width)
            delta[:, :, rows, columns] += self.scale * pattern[batch.targets[name]]
        return delta


def lift(tasks: Sequence[Classification], mode: Lift, height: int, width: int, draw: Draw) -> ClasswiseNoise:
    """Draw a pattern for every task and class and lay them out over the image.

    ``patch`` draws each task's patterns at its cell's own size, so that a pattern's inner structure is kept;
    ``average`` draws them at the size of the image and takes their mean over tasks.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, baselines "patch" and "average"

    Departs from the paper: the paper's ``patch`` uses a square grid of 2^m cells, which leaves cells of the
    image without noise (24 of 64 for 40 tasks); here all pixels are used.
    """
    whole = Cell(0, 0, height, width)
    places = cells(len(tasks), height, width) if mode == "patch" else [whole] * len(tasks)
    patterns = []
    for task, place in zip(tasks, places, strict=True):
        drawn = draw(task.classes, place.height, place.width)
        patterns.append(torch.cat([drawn, torch.zeros_like(drawn[:1])]))
    return ClasswiseNoise(
        tuple(task.name for task in tasks),
        tuple(places),
        tuple(patterns),
        scale=1.0 if mode == "patch" else 1 / len(tasks),
    )
