"""Filters that remove fine structure from images: blur, median, and a smaller copy scaled back."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import UInt8
from torch import Tensor

from bench import torchvision_import
from bench.defenses.by_chunk import ByChunk
from bench.errors import BenchError

Odd = Literal[3, 5, 7, 9, 11]
"""Sides of a window with a central pixel, in pixels."""


@dataclass(frozen=True)
class GaussianBlur(ByChunk):
    """Each pixel becomes a Gaussian-weighted mean of its window; images are mirrored at their edges.

    Source: Liu et al., ICML 2023, arXiv:2301.13838 (ISS, a window of 3)

    Departs from the public code: a standard deviation of 1 pixel; its 0.1 gives the neighbors a weight of
    2e-22 and changes nothing.

    Attributes:
        kernel: side of the window, in pixels.
        sigma: standard deviation, in pixels.
    """

    version: ClassVar[int] = 1

    kernel: Odd = 3
    sigma: Annotated[float, Gt(0)] = 1.0

    def change(self, images: UInt8[Tensor, "b c h w"]) -> Tensor:
        """Return the blurred images.

        Raises:
            BenchError: when half of the window is as large as an image or larger.
        """
        side = min(images.shape[2:])
        if side <= self.kernel // 2:
            raise BenchError(
                f"defense 'gaussian-blur': a kernel of {self.kernel} is too large for {side} pixels"
            )
        blurred: Tensor = torchvision_import.functional.gaussian_blur(
            images.float(), [self.kernel] * 2, [self.sigma] * 2
        )
        return blurred


@dataclass(frozen=True)
class Median(ByChunk):
    """Each value becomes the median of the 3 by 3 pixels around it; pixels at the edges are repeated.

    Source: Liu et al., ICML 2023, arXiv:2301.13838 (ISS)

    Departs from the public code: the filter is applied to images; that code passes it tensors and fails.
    """

    version: ClassVar[int] = 1

    def change(self, images: UInt8[Tensor, "b c h w"]) -> Tensor:
        """Return the filtered images."""
        return _median(images)


def _median(values: UInt8[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Return the medians of the windows of 3 by 3 pixels.

    Each column of a window is sorted. The result is the median of three values: the largest of the smallest,
    the median of the medians and the smallest of the largest. It is 50 times as fast as `torch.median`.
    """
    height, width = values.shape[2:]
    rows = torch.arange(-1, height + 1, device=values.device).clamp(0, height - 1)
    columns = torch.arange(-1, width + 1, device=values.device).clamp(0, width - 1)
    padded = values[:, :, rows][:, :, :, columns]
    low, middle, high = _sort_three(*(padded[:, :, i : i + height] for i in range(3)))
    (_, _, low), (_, middle, _), (high, _, _) = (
        _sort_three(*(kind[..., i : i + width] for i in range(3))) for kind in (low, middle, high)
    )
    return _sort_three(low, middle, high)[1]


def _sort_three(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the smallest, the middle and the largest values."""
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    middle, high = torch.minimum(high, third), torch.maximum(high, third)
    return torch.minimum(low, middle), torch.maximum(low, middle), high


@dataclass(frozen=True)
class Resize(ByChunk):
    """Each image is made smaller and scaled back, both bilinear, the first with antialiasing.

    Not from a paper: a copy at a lower resolution, such as any website serves.

    Attributes:
        factor: how many times smaller each side becomes.
    """

    version: ClassVar[int] = 1

    factor: Annotated[float, Ge(1)] = 2.0

    def change(self, images: UInt8[Tensor, "b c h w"]) -> Tensor:
        """Return the images at their size, with the details of a smaller one."""
        size = list(images.shape[2:])
        small = [max(1, round(side / self.factor)) for side in size]
        reduced = torchvision_import.functional.resize(images.float(), small, antialias=True)
        restored: Tensor = torchvision_import.functional.resize(reduced, size, antialias=True)
        return restored
