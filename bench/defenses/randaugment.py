"""RandAugment: random operations on every image, all of one strength."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final

import torch
from annotated_types import Ge, Le
from jaxtyping import UInt8
from torch import Tensor, nn

from bench import torchvision_import
from bench.api import Task
from bench.defenses.base import NoOp
from bench.errors import BenchError
from bench.values import Batch

BINS: Final = 31
"""Steps from the weakest to the strongest magnitude, torchvision's."""


@dataclass(frozen=True)
class RandomAugment(NoOp):
    """Random operations for each image and step: shifts, rotations, shears, tones, colors; 14 in all.

    They are torchvision's. Some move the image's content, so that a dense task's map would no longer fit it.

    Source: Cubuk et al., NeurIPS 2020, arXiv:1909.13719

    Attributes:
        operations: how many are applied to an image, one after the other (N).
        magnitude: their strength (M), of 30.
    """

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    operations: Annotated[int, Ge(1)] = 2
    magnitude: Annotated[int, Ge(0), Le(30)] = 9

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch with changed images, in 256 levels per channel.

        Raises:
            BenchError: when they have neither one channel nor three.
        """
        channels = batch.images.shape[1]
        if channels not in (1, 3):
            raise BenchError(f"defense 'randaugment' takes images of 1 or 3 channels, not {channels}")
        library = torchvision_import.transforms.RandAugment(self.operations, self.magnitude, BINS)
        images = (batch.images * 255).round().to(torch.uint8)
        for _ in range(self.operations):
            images = _apply_random_operation(library, images)
        return replace(batch, images=images.float() / 255)


def _apply_random_operation(library: Any, images: UInt8[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Return the images after one of the library's operations, drawn for each on its own.

    Those with the same draw are computed together.
    """
    drawn = torch.randint(len(library._AUGMENTATION_SPACE), (len(images),))
    negative = torch.rand(len(images)) < 0.5
    changed = images.clone()
    for number, (name, (magnitudes, signed)) in enumerate(library._AUGMENTATION_SPACE.items()):
        strengths = magnitudes(library.num_magnitude_bins, *images.shape[2:])
        strength = 0.0 if strengths is None else float(strengths[library.magnitude])
        for sign in (1, -1) if signed else (1,):
            members = (drawn == number) & ((negative == (sign < 0)) | (not signed))
            rows = members.nonzero()[:, 0].to(images.device)
            if len(rows):
                changed[rows] = library._apply_image_or_video_transform(
                    images[rows], name, sign * strength, library.interpolation, library._fill
                )
    return changed
