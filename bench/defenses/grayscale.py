"""Grayscale: remove the colors, in which a perturbation may hide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from bench import torchvision_import
from bench.api import Task
from bench.defenses.base import NoOp
from bench.defenses.by_chunk import map_by_chunk
from bench.errors import BenchError
from bench.values import Progress, Split, ignore_progress


@dataclass(frozen=True)
class Grayscale(NoOp):
    """Each channel becomes the ITU-R 601 luma, rounded to nearest; gray images stay as they are.

    Source: Liu et al., ICML 2023, arXiv:2301.13838 (ISS)
    """

    version: ClassVar[int] = 1

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images without color, in as many channels as they had.

        Raises:
            BenchError: when they have neither one channel nor three.
        """
        images = released.images
        channels = images.shape[1]
        if channels == 1:
            return images
        if channels != 3:
            raise BenchError(f"defense 'grayscale' takes images of 1 or 3 channels, not {channels}")

        def compute_luma(values: Tensor) -> Tensor:
            # On integers torchvision truncates, and white would become 254.
            luma: Tensor = torchvision_import.functional.rgb_to_grayscale(
                values.float(), num_output_channels=3
            )
            return luma

        return map_by_chunk(images, compute_luma, device, progress)
