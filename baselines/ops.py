"""OPS: one-pixel shortcuts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from bench.api import CraftContext, Norm
from bench.errors import BenchError
from bench.tasks.classification import Classification, require_classification
from bench.tasks.labels import one_hot
from bench.training.loaders import iterate_batches
from bench.values import MISSING, Batch, Split

LEAST_SPREAD = 0.5
"""Smallest standard deviation of a pixel's distances, in 1/255, that is used; smaller ones are raised to it.
Among pixels that are the same in all images of a class (a black background), the one farthest from the color
is chosen, not the result of a division by zero."""

ROWS = 64
"""Images that are added up at a time, in single precision: sums of up to 258 squares of 255 are exact."""


@dataclass(frozen=True)
class OPS:
    """One-pixel shortcuts: for every task, one pixel of every image is set to a color that tells the label.

    For every class, the pixel and the corner of the color cube are chosen that are far from the class's
    images, and equally far from all of them. There is no budget: a pixel may change by 255.

    Source: Wu et al., ICLR 2023, arXiv:2205.12141, section 3, Alg. 1

    Departs from the paper: with many tasks there is a pixel for each task and label, and no position is used
    by two tasks; a standard deviation counts as 0.5/255 at least, since that of a constant pixel is zero.
    """

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = None
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True

    def craft(self, train: Split, context: CraftContext) -> "PixelShortcuts":
        """Choose a pixel and a color for every class of every task."""
        tasks = require_classification(context.tasks, "attack 'ops'")
        _, channels, _, width = train.images.shape
        chosen = choose_pixels(tasks, class_gains(train, tasks, context.device))
        cube = color_corners(channels).to(context.device)
        pixels = {
            task.name: ClassPixels(pixel // width, pixel % width, cube[corner])
            for task, (corner, pixel) in zip(tasks, chosen, strict=True)
        }
        return PixelShortcuts(pixels)


@dataclass(frozen=True, eq=False)
class ClassPixels:
    """A pixel for every class of a task, and its color, whose values are 0 or 1."""

    rows: Int64[Tensor, " k"]
    columns: Int64[Tensor, " k"]
    colors: Float[Tensor, "k c"]


@dataclass(frozen=True, eq=False)
class PixelShortcuts:
    """Noise that sets one pixel per task.

    Attributes:
        pixels: task name → pixels and colors of its classes.
    """

    pixels: Mapping[str, ClassPixels]

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return the change that sets the chosen pixels of these images to their colors."""
        delta = torch.zeros_like(batch.images)
        for name, pixels in self.pixels.items():
            (index,) = torch.where(batch.targets[name] != MISSING)
            label = batch.targets[name][index]
            place = (index, slice(None), pixels.rows[label], pixels.columns[label])
            delta[place] = pixels.colors[label] - batch.images[place]
        return delta


def color_corners(channels: int) -> Float[Tensor, "v c"]:
    """Return the 2^c corners of the color cube."""
    return torch.tensor(list(product((0.0, 1.0), repeat=channels)))


def class_gains(
    train: Split, tasks: Sequence[Classification], device: torch.device
) -> list[Float[Tensor, "_ v p"]]:
    """Return, per task, G of every class, corner and pixel: mean over standard deviation of the distance.

    Both are over the class's images and the channels, computed from sums of values and of squares.
    """
    _, channels, height, width = train.images.shape
    ones = sum(task.classes for task in tasks)
    count = torch.zeros(ones, dtype=torch.double, device=device)
    total = torch.zeros(ones, channels * height * width, dtype=torch.double, device=device)
    squares = torch.zeros_like(total)
    for batch in iterate_batches(train, ROWS, device, shuffle=False):
        member = torch.cat([one_hot(batch.targets[task.name], task.classes) for task in tasks], dim=1).T
        values = batch.images.mul_(255).round_().flatten(1)
        count += member.sum(1)
        total += member @ values
        squares += member @ values.square()
    shape = (ones, channels, height * width)
    gains = _gains_from_sums(count.view(-1, 1, 1), total.view(shape), squares.view(shape))
    return list(gains.split([task.classes for task in tasks]))


def _gains_from_sums(
    count: Float[Tensor, "k 1 1"], total: Float[Tensor, "k c p"], squares: Float[Tensor, "k c p"]
) -> Float[Tensor, "k v p"]:
    """Return G from the number of a class's images and the sums of their values (0 to 255) and squares.

    G of a class without images is zero everywhere.
    """
    channels = total.shape[1]
    chosen = functional.one_hot(color_corners(channels).long(), 2).to(total)
    distance = torch.stack([total, 255 * count - total], dim=-1)
    square = torch.stack([squares, 255**2 * count - 510 * total + squares], dim=-1)
    size = channels * count.clamp(min=1)
    mean = torch.einsum("kcps,vcs->kvp", distance, chosen) / size
    variance = torch.einsum("kcps,vcs->kvp", square, chosen) / size - mean.square()
    return mean / variance.clamp(min=LEAST_SPREAD**2).sqrt()


def choose_pixels(
    tasks: Sequence[Classification], gains: Sequence[Float[Tensor, "_ v p"]]
) -> list[tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]]:
    """Return, per task, the corner and the pixel of every class: those of the largest gain still available.

    A pair of corner and pixel is used by one class of a task only, a pixel by one task only. A class without
    images uses none.

    Raises:
        BenchError: when no pixel is available.
    """
    chosen = []
    free = torch.ones(gains[0].shape[1:], dtype=torch.bool)
    for task, task_gains in zip(tasks, gains, strict=True):
        left = free.clone()
        best = torch.zeros(task.classes, dtype=torch.long)
        for label, gain in enumerate(task_gains.cpu()):
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
        best = best.to(task_gains.device)
        chosen.append((best // free.shape[1], best % free.shape[1]))
    return chosen
