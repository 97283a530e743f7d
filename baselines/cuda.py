"""CUDA: convolution-based unlearnable data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bench.api import CraftContext, Norm
from bench.tasks.classification import require_classification
from bench.values import MISSING, Batch, Split


@dataclass(frozen=True)
class CUDA:
    """Convolution-based unlearnable data: every image is filtered by a random kernel of its class.

    There is no budget: a pixel may change by 255. Every task filters in turn, so with tens of tasks the
    images are strongly blurred.

    Source: Sadasivan et al., CVPR 2023, arXiv:2303.04278, section 3

    Departs from the paper: one kernel for each task and label, applied one task after another.

    Attributes:
        blur: upper bound of a kernel's random weights.
        center: the weight of one position, drawn per kernel.
    """

    blur: Annotated[float, Ge(0)] = 0.3
    center: Annotated[float, Gt(0)] = 1.0
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = None
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> "ClassFilters":
        """Draw the kernels."""
        return ClassFilters(
            {
                task.name: self._kernels(task.classes).to(context.device)
                for task in require_classification(context.tasks, "attack 'cuda'")
            }
        )

    def _kernels(self, classes: int) -> Float[Tensor, "k 3 3"]:
        kernels = torch.rand(classes, 9) * self.blur
        kernels[torch.arange(classes), torch.randint(9, (classes,))] = self.center
        return kernels.view(classes, 3, 3)


@dataclass(frozen=True, eq=False)
class ClassFilters:
    """Noise that filters every image by the kernels of its labels.

    Attributes:
        kernels: task name → one kernel per class [k 3 3], the same for all channels.
    """

    kernels: Mapping[str, Float[Tensor, "k 3 3"]]

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return the filtered images, their largest value scaled to 1, minus the images.

        A task whose label is missing does not filter.
        """
        images = batch.images
        for name, kernels in self.kernels.items():
            label = batch.targets[name]
            filtered = filter_images(images, kernels[label.clamp(min=0)])
            # Filters are linear: scaling after each one is the same as scaling once at the end.
            largest = filtered.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(filtered.dtype).tiny)
            images = torch.where((label != MISSING).view(-1, 1, 1, 1), filtered / largest, images)
        return images - batch.images


def filter_images(
    images: Float[Tensor, "b c h w"], kernels: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b c h w"]:
    """Return every image with all its channels filtered by its own kernel; pixels outside count as zero."""
    # One group per image; its channels share a kernel and take the place of the batch.
    filtered = functional.conv2d(images.transpose(0, 1), kernels.unsqueeze(1), padding=1, groups=len(images))
    return filtered.transpose(0, 1)
