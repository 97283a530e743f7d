"""Cutout: hide a part of every image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from jaxtyping import Bool
from torch import Tensor, nn

from bench.api import Task
from bench.defenses.base import NoOp
from bench.values import Batch


@dataclass(frozen=True)
class Cutout(NoOp):
    """One black square per image and step, centered on any pixel, so that a part of it may be outside.

    Labels are not changed, those of dense tasks under the square neither.

    Source: DeVries & Taylor, 2017, arXiv:1708.04552 (16 of CIFAR-10's 32 pixels)

    Attributes:
        share: the square's side, of the image's shorter one.
    """

    version: ClassVar[int] = 1

    share: Annotated[float, Gt(0), Le(1)] = 0.5

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch with holes in its images."""
        images = batch.images
        count, _, height, width = images.shape
        side = round(self.share * min(height, width))
        rows = _draw_intervals(count, height, side, images.device)[:, None, :, None]
        columns = _draw_intervals(count, width, side, images.device)[:, None, None, :]
        return replace(batch, images=images.masked_fill(rows & columns, 0))


def _draw_intervals(count: int, length: int, side: int, device: torch.device) -> Bool[Tensor, "b length"]:
    """Draw ``count`` intervals of ``side`` pixels around any of ``length``; return the pixels they cover."""
    start = torch.randint(0, length, (count, 1), device=device) - side // 2
    pixels = torch.arange(length, device=device)
    return (pixels >= start) & (pixels < start + side)
