"""Changing a set of images without ever having all of it as floats."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from bench.memory import allocate_zeros
from bench.values import Progress

VALUES: Final = 2**22
"""Pixel values computed at once; changes memory and speed, not results."""


def map_by_chunk(
    images: UInt8[Tensor, "n c h w"],
    change: Callable[[Tensor], Tensor],
    device: torch.device,
    progress: Progress,
) -> UInt8[Tensor, "n c h w"]:
    """Return changed images, some at a time computed on the device.

    Args:
        images: the set, which may be memory-mapped.
        change: takes some of the images to as many, in steps of 1/255 as they are; floats are rounded.
        device: where to compute.
        progress: told how many images are done.
    """
    changed = allocate_zeros(images.shape, images.dtype)
    size = max(1, VALUES // max(1, images[:1].numel()))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        some = change(images[rows].to(device))
        changed[rows] = some.round().clamp(0, 255).to(changed.dtype)
        progress("purify", min(start + size, len(images)), len(images))
    return changed.to(images.device)
