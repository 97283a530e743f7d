"""The augmentation of the field: a random crop and a random flip, drawn for every image on its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from bench.api import Task
from bench.values import DENSE, Augmentation, Batch, Shape, Split

Samples = TypeVar("Samples", Split, Batch)
"""Images and targets as they are stored, or as they are computed with."""


@dataclass(frozen=True, eq=False)
class CropAndFlip:
    """A crop and a flip for every image.

    Attributes:
        corner: first row and first column of the crop, per image or [1] for all; None: the whole image.
        side: rows and columns of the crop.
        flipped: which images are flipped, per image or [1] for all; None: none.
    """

    corner: tuple[Int64[Tensor, " b"], Int64[Tensor, " b"]] | None
    side: int
    flipped: Bool[Tensor, " b"] | None

    def crop(self, values: Shaped[Tensor, "b ... h w"]) -> Shaped[Tensor, "b ... s s2"]:
        """Return the cropped and flipped maps; gradients pass, and values stay exact."""
        cropped: Tensor = _CropAndFlipPixels.apply(values, self)  # type: ignore[no-untyped-call]
        return cropped

    def crop_target(self, task: Task, target: Tensor) -> Tensor:
        """Return a dense task's target, cropped and flipped like its image."""
        cropped = self.crop(target)
        return cropped if self.flipped is None else _choose(self.flipped, task.mirrored(cropped), cropped)


class _CropAndFlipPixels(torch.autograd.Function):
    """The pixels of `CropAndFlip`.

    The gradient is computed as a crop too, of the crop's gradient with zeros around it. A general gather
    would add the gradient up pixel by pixel.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, view: CropAndFlip) -> Tensor:
        ctx.view, ctx.size = view, values.shape[-2:]
        if view.corner is not None:
            values = _select_windows(values, *view.corner, view.side, view.side)
        return values if view.flipped is None else _choose(view.flipped, values.flip(-1), values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        view: CropAndFlip = ctx.view
        height, width = ctx.size
        if view.flipped is not None:
            gradient = _choose(view.flipped, gradient.flip(-1), gradient)
        if view.corner is not None:
            (top, left), below, right = view.corner, height - view.side, width - view.side
            padded = functional.pad(gradient, (right, right, below, below))
            gradient = _select_windows(padded, below - top, right - left, height, width)
        return gradient, None


def _select_windows(values: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Return every map's window [b ... height width] that starts at its own row and column [b].

    A window is one row of a view that has a row for every place in memory, so all are copied at once, whole
    lines at a time.
    """
    shape, strides = (*values.shape[1:-2], height, width), values.stride()
    places = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    window = sum((size - 1) * stride for size, stride in zip(shape, strides[1:], strict=True))
    starts = torch.arange(len(values), device=values.device) * strides[0]
    view = values.as_strided((places - window, *shape), (1, *strides[1:]))
    return view.index_select(0, starts + top * strides[-2] + left * strides[-1])


def _choose(which: Bool[Tensor, " b"], some: Tensor, others: Tensor) -> Tensor:
    """Return the samples of the first tensor where chosen, those of the second elsewhere.

    Whole samples are copied, which is faster than to choose pixel by pixel.
    """
    rows = torch.arange(len(some), device=some.device)
    return torch.cat([others, some]).index_select(0, rows + len(some) * which)


def draw_crop_and_flip(
    images: Shaped[Tensor, "b c h w"], augmentation: Augmentation, count: int
) -> CropAndFlip:
    """Draw crops and flips for this many images of this size."""
    (height, width), device, side = images.shape[2:], images.device, augmentation.crop
    corner = flipped = None
    if side is not None:
        top = torch.randint(0, height - side + 1, (count,), device=device)
        corner = top, torch.randint(0, width - side + 1, (count,), device=device)
    if augmentation.flip:
        flipped = torch.rand(count, 1, device=device)[:, 0] < 0.5
    return CropAndFlip(corner, side or 0, flipped)


def augment(
    samples: Samples, augmentation: Augmentation, tasks: Sequence[Task], *, shared: bool = False
) -> Samples:
    """Return a random crop of every image, flipped left-right with probability one half, and its targets.

    Gradients pass through the images. With ``shared`` one crop and one flip are drawn for all images.

    Args:
        samples: images and targets.
        augmentation: what is drawn.
        tasks: those of the samples; the targets of dense ones are cropped and flipped with the images.
        shared: see above.
    """
    view = draw_crop_and_flip(samples.images, augmentation, 1 if shared else len(samples.images))
    dense = {task.name: task for task in tasks if task.kind in DENSE}
    targets = {
        name: view.crop_target(dense[name], target) if name in dense else target
        for name, target in samples.targets.items()
    }
    return replace(samples, images=view.crop(samples.images), targets=targets)


def center_crop(samples: Samples, augmentation: Augmentation, tasks: Sequence[Task]) -> Samples:
    """Return the central crops, on which networks trained on random crops are scored."""
    side = augmentation.crop
    if side is None:
        return samples
    height, width = samples.images.shape[2:]
    top, left = (height - side) // 2, (width - side) // 2

    def middle(values: Tensor) -> Tensor:
        return values[..., top : top + side, left : left + side]

    dense = {task.name for task in tasks if task.kind in DENSE}
    targets = {name: middle(target) if name in dense else target for name, target in samples.targets.items()}
    return replace(samples, images=middle(samples.images), targets=targets)


def cropped_shape(shape: Shape, augmentation: Augmentation) -> Shape:
    """Return the shape [c h w] of the crops that a network sees of images [c h w]."""
    channels, height, width = shape
    side = augmentation.crop
    return (channels, height, width) if side is None else (channels, side, side)
