"""Fewer levels per channel: the field's two ways of reducing the bit depth, which differ."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from jaxtyping import UInt8
from torch import Tensor

from bench import torchvision_import
from bench.defenses.by_chunk import ByChunk


@dataclass(frozen=True)
class BitDepth(ByChunk):
    """Every value x in [0, 1] becomes ⌊2ᵇ x⌋ / 2ᵇ: 2ᵇ levels over the range; white stays white.

    Source: Yu et al., ICML 2025 (MTL-UE), the public code's ⌊4x⌋ / 4

    Departs from the public code: the result is rounded to the nearest of 255 steps.

    Attributes:
        bits: the exponent b.
    """

    version: ClassVar[int] = 1

    bits: Annotated[int, Ge(1), Le(7)] = 2

    def change(self, images: UInt8[Tensor, "b c h w"]) -> Tensor:
        """Return the images in fewer levels."""
        levels = 1 << self.bits
        # Multiplied first: values and product are whole numbers, so no level is missed by rounding.
        level: Tensor = (images.float() * levels).div(255, rounding_mode="floor")
        return level * 255 / levels


@dataclass(frozen=True)
class Posterize(ByChunk):
    """The lowest of every value's eight bits become zero; with two bits left, values are 0, 64, 128 and 192.

    Source: Liu et al., ICML 2023, arXiv:2301.13838 (ISS, "BDR": two bits)

    Departs from the public code: done once, before training, and not random.

    Attributes:
        bits: bits that are kept.
    """

    version: ClassVar[int] = 1

    bits: Annotated[int, Ge(1), Le(7)] = 2

    def change(self, images: UInt8[Tensor, "b c h w"]) -> Tensor:
        """Return the images with the lower bits cleared."""
        cleared: Tensor = torchvision_import.functional.posterize(images, self.bits)
        return cleared
