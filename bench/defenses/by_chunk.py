"""Defenses that change images one by one, some at a time, since a set may not fit in memory as floats."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from bench.api import Task
from bench.defenses.base import NoOp
from bench.memory import allocate_zeros
from bench.values import Progress, Split, ignore_progress

CHUNK_VALUES: Final = 2**22
"""Pixel values computed at once; changes memory and speed, not results."""


class ByChunk(NoOp, ABC):
    """A defense that changes every image on its own, once, before training."""

    @abstractmethod
    def change(self, images: UInt8[Tensor, "b c h w"]) -> Tensor:
        """Return some of the images changed, in steps of 1/255; floats are rounded afterwards."""

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the changed images."""
        return map_by_chunk(released.images, self.change, device, progress)


def map_by_chunk(
    images: UInt8[Tensor, "n c h w"],
    change: Callable[[Tensor], Tensor],
    device: torch.device,
    progress: Progress,
) -> UInt8[Tensor, "n c h w"]:
    """Return the changed images, computed on the device some at a time.

    Args:
        images: the set, which may be memory-mapped.
        change: changes some of the images, in steps of 1/255; floats are rounded afterwards.
        device: where to compute.
        progress: called with the number of images done.
    """
    changed = allocate_zeros(images.shape, images.dtype)
    size = max(1, CHUNK_VALUES // max(1, images[:1].numel()))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        changed_rows = change(images[rows].to(device))
        changed[rows] = changed_rows.round().clamp(0, 255).to(changed.dtype)
        progress("purify", min(start + size, len(images)), len(images))
    return changed.to(images.device)
