"""Fewer levels per channel: the field's two ways of reducing the bit depth, which are not the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import UInt8
from torch import Tensor

from bench import torchvision_import
from bench.api import Task
from bench.defenses.by_chunk import map_by_chunk
from bench.defenses.no_op import NoOp
from bench.values import Progress, Split, ignore_progress


@dataclass(frozen=True)
class BitDepth(NoOp):
    """Every value x in [0, 1] becomes ⌊2ᵇ x⌋ / 2ᵇ: 2ᵇ levels over the range, and white, which stays white.

    Source: Yu et al., ICML 2025 (MTL-UE), the public code's ⌊4x⌋ / 4

    Departs from the public code: what comes out is rounded to the nearest of 255 steps.

    Attributes:
        bits: the exponent b.
    """

    version: ClassVar[int] = 1

    bits: Annotated[int, Ge(1), Le(7)] = 2

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images in fewer levels."""
        levels = 1 << self.bits

        def reduce(values: Tensor) -> Tensor:
            # Multiplied first: values and product are whole numbers, so that no level is missed by rounding.
            level: Tensor = (values.float() * levels).div(255, rounding_mode="floor")
            return level * 255 / levels

        return map_by_chunk(released.images, reduce, device, progress)


@dataclass(frozen=True)
class Posterize(NoOp):
    """Of every value's eight bits the lowest become zero; white is lost: two bits leave 0, 64, 128 and 192.

    Source: Liu et al., ICML 2023, arXiv:2301.13838 (ISS, "BDR": two bits)

    Departs from the public code: done once, before training; nothing about it is random.

    Attributes:
        bits: bits that are kept.
    """

    version: ClassVar[int] = 1

    bits: Annotated[int, Ge(1), Le(7)] = 2

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images with the lower bits cleared."""

        def clear(values: Tensor) -> Tensor:
            kept: Tensor = torchvision_import.functional.posterize(values, self.bits)
            return kept

        return map_by_chunk(released.images, clear, device, progress)
