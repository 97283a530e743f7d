"""OPS: one-pixel shortcuts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from bench.api import CraftContext
from bench.errors import BenchError
from bench.memory import rows_per_chunk
from bench.tasks.classification import Classification, require_classification
from bench.tasks.labels import one_hot
from bench.training.loaders import iterate_batches
from bench.values import MISSING, Batch, Split

LEAST_SPREAD = 0.5
"""Standard deviation, in 1/255, below which a pixel's distances count as if they had this one. Of pixels that
are the same in all images of a class (a black background), the one farthest from the value is chosen, and not
whichever 0/0 makes the largest."""


@dataclass(frozen=True)
class OPS:
    """One-pixel shortcuts: one pixel of every image is set to a color that says the label, for every task.

    Chosen is, class by class, the pixel and the corner of the color cube from which the class's images are
    far and equally far. There is no budget: a pixel may change by 255.

    Source: Wu et al., ICLR 2023, arXiv:2205.12141, section 3, Alg. 1

    Departs from the paper: for many tasks there is a pixel for each task and label, and no position serves
    two tasks; a standard deviation counts as 0.5/255 at least, since a constant pixel's is zero.
    """

    needs_surrogate: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True

    def craft(self, train: Split, context: CraftContext) -> "Pixels":
        """Choose a pixel and a color for every class of every task."""
        tasks = require_classification(context.tasks, "attack 'ops'")
        _, channels, _, width = train.images.shape
        chosen = choose(tasks, class_gains(train, tasks, context.device))
        cube = corners(channels).to(context.device)
        marks = {
            task.name: Marks(pixel // width, pixel % width, cube[corner])
            for task, (corner, pixel) in zip(tasks, chosen, strict=True)
        }
        return Pixels(marks)


@dataclass(frozen=True, eq=False)
class Marks:
    """What shows a task's classes: a pixel each, and its color, every value of which is 0 or 1."""

    rows: Int64[Tensor, " k"]
    columns: Int64[Tensor, " k"]
    colors: Float[Tensor, "k c"]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images with a pixel set for every task.

    Attributes:
        marks: task name → the pixel and color of its classes.
    """

    marks: Mapping[str, Marks]

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return what takes the chosen pixels of these images to their colors."""
        delta = torch.zeros_like(batch.images)
        for name, marks in self.marks.items():
            (index,) = torch.where(batch.targets[name] != MISSING)
            label = batch.targets[name][index]
            place = (index, slice(None), marks.rows[label], marks.columns[label])
            delta[place] = marks.colors[label] - batch.images[place]
        return delta


def corners(channels: int) -> Float[Tensor, "v c"]:
    """Return the 2^c corners of the color cube."""
    return torch.tensor(list(product((0.0, 1.0), repeat=channels)))


def class_gains(
    train: Split, tasks: Sequence[Classification], device: torch.device
) -> list[Float[Tensor, "_ v p"]]:
    """Return, per task, G of every class, corner and pixel: mean over standard deviation of the distance.

    Both are over the class's images and the channels, from sums over the images of values and of squares.
    """
    _, channels, height, width = train.images.shape
    ones = sum(task.classes for task in tasks)
    count = torch.zeros(ones, dtype=torch.double, device=device)
    total = torch.zeros(ones, channels * height * width, dtype=torch.double, device=device)
    squares = torch.zeros_like(total)
    for batch in iterate_batches(train, rows_per_chunk(train.images), device, shuffle=False):
        member = (
            torch.cat([one_hot(batch.targets[task.name], task.classes) for task in tasks], dim=1).double().T
        )
        values = (batch.images * 255).round().double().flatten(1)
        count += member.sum(1)
        total += member @ values
        squares += member @ values.square()
    shape = (ones, channels, height * width)
    gains = _gains(count.view(-1, 1, 1), total.view(shape), squares.view(shape))
    return list(gains.split([task.classes for task in tasks]))


def _gains(
    count: Float[Tensor, "k 1 1"], total: Float[Tensor, "k c p"], squares: Float[Tensor, "k c p"]
) -> Float[Tensor, "k v p"]:
    """Return G from the number of a class's images and the sums of values, in steps, and of their squares.

    A class without images has none, zero everywhere.
    """
    channels = total.shape[1]
    chosen = functional.one_hot(corners(channels).long(), 2).to(total)
    distance = torch.stack([total, 255 * count - total], dim=-1)
    square = torch.stack([squares, 255**2 * count - 510 * total + squares], dim=-1)
    size = channels * count.clamp(min=1)
    mean = torch.einsum("kcps,vcs->kvp", distance, chosen) / size
    variance = torch.einsum("kcps,vcs->kvp", square, chosen) / size - mean.square()
    return mean / variance.clamp(min=LEAST_SPREAD**2).sqrt()


def choose(
    tasks: Sequence[Classification], gains: Sequence[Float[Tensor, "_ v p"]]
) -> list[tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]]:
    """Return, per task, the corner and the pixel of every class: the greatest gain that is left.

    An earlier class's pair of corner and pixel is taken for the task's other classes, an earlier task's pixel
    for the other tasks. A class without images takes nothing.

    Raises:
        BenchError: when no pixel is left.
    """
    chosen = []
    free = torch.ones(gains[0].shape[1:], dtype=torch.bool)
    for task, of_classes in zip(tasks, gains, strict=True):
        left = free.clone()
        best = torch.zeros(task.classes, dtype=torch.long)
        for label, gain in enumerate(of_classes.cpu()):
            if not gain.any():
                continue
            if not left.any():
                raise BenchError(
                    f"attack 'ops' has no pixel left for class {label} of task {task.name!r}; the images are "
                    f"too small for so many tasks"
                )
            best[label] = gain.masked_fill(~left, -1.0).argmax()
            left.view(-1)[best[label]] = False
        free &= left.all(0)
        best = best.to(of_classes.device)
        chosen.append((best // free.shape[1], best % free.shape[1]))
    return chosen
