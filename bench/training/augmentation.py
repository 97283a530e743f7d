"""The augmentation of the field: a random crop and a random flip, drawn for every image on its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bench.api import Task
from bench.values import DENSE, Augmentation, Batch, Shape


@dataclass(frozen=True, eq=False)
class CropAndFlip:
    """A crop and a flip for every image.

    Attributes:
        rows: rows of the crop, per image; None: all.
        columns: columns of the crop, in reverse order if flipped; None: all, in their order.
        flipped: which images are flipped; None: none.
    """

    rows: Int64[Tensor, "b s"] | None = None
    columns: Int64[Tensor, "b s2"] | None = None
    flipped: Bool[Tensor, " b"] | None = None

    def crop(self, values: Tensor) -> Tensor:
        """Return the cropped and flipped maps [b ... h w]; gradients pass, and values stay exact."""
        if self.rows is not None:
            values = _gather_pixels(values, -2, self.rows)
        return values if self.columns is None else _gather_pixels(values, -1, self.columns)

    def crop_target(self, task: Task, target: Tensor) -> Tensor:
        """Return a dense task's target, cropped and flipped like its image."""
        cropped = self.crop(target)
        if self.flipped is None:
            return cropped
        return torch.where(self.flipped.view(-1, *[1] * (cropped.ndim - 1)), task.mirrored(cropped), cropped)


def draw_crop_and_flip(images: Float[Tensor, "b c h w"], augmentation: Augmentation) -> CropAndFlip:
    """Draw a crop and a flip for every image."""
    (count, _, height, width), device = images.shape, images.device
    side = augmentation.crop
    rows = columns = flipped = None
    if side is not None:
        top = torch.randint(0, height - side + 1, (count,), device=device)
        rows = top[:, None] + torch.arange(side, device=device)
        left = torch.randint(0, width - side + 1, (count,), device=device)
        columns = left[:, None] + torch.arange(side, device=device)
    if augmentation.flip:
        if columns is None:
            columns = torch.arange(width, device=device).expand(count, -1)
        flips = torch.rand(count, 1, device=device) < 0.5
        columns, flipped = torch.where(flips, columns.flip(1), columns), flips[:, 0]
    return CropAndFlip(rows, columns, flipped)


def augment(
    batch: Batch, augmentation: Augmentation, tasks: Sequence[Task], *, shared: bool = False
) -> Batch:
    """Return a random crop of every image, flipped left-right with probability one half, and its targets.

    Gradients pass through the images. With ``shared`` one crop and one flip are drawn for all images.

    Args:
        batch: images and targets.
        augmentation: what is drawn.
        tasks: those of the batch; the targets of dense ones are cropped and flipped with the images.
        shared: see above.
    """
    count = len(batch.images)
    if shared:
        one = draw_crop_and_flip(batch.images[:1], augmentation)
        parts = (one.rows, one.columns, one.flipped)
        view = CropAndFlip(*(None if part is None else part.expand(count, *part.shape[1:]) for part in parts))
    else:
        view = draw_crop_and_flip(batch.images, augmentation)
    dense = {task.name: task for task in tasks if task.kind in DENSE}
    targets = {
        name: view.crop_target(dense[name], target) if name in dense else target
        for name, target in batch.targets.items()
    }
    return replace(batch, images=view.crop(batch.images), targets=targets)


def center_crop(batch: Batch, augmentation: Augmentation, tasks: Sequence[Task]) -> Batch:
    """Return the central crops, on which networks trained on random crops are scored."""
    side = augmentation.crop
    if side is None:
        return batch
    height, width = batch.images.shape[2:]
    top, left = (height - side) // 2, (width - side) // 2

    def middle(values: Tensor) -> Tensor:
        return values[..., top : top + side, left : left + side]

    dense = {task.name for task in tasks if task.kind in DENSE}
    targets = {name: middle(target) if name in dense else target for name, target in batch.targets.items()}
    return replace(batch, images=middle(batch.images), targets=targets)


def cropped_shape(shape: Shape, augmentation: Augmentation) -> Shape:
    """Return the shape [c h w] of the crops that a network sees of images [c h w]."""
    channels, height, width = shape
    side = augmentation.crop
    return (channels, height, width) if side is None else (channels, side, side)


def _gather_pixels(values: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return rows (dim -2) or columns (dim -1) of every map by its own index [b s]."""
    shape = list(values.shape)
    shape[dim] = index.shape[1]
    view = [len(index)] + [1] * (values.ndim - 1)
    view[dim] = index.shape[1]
    return values.gather(dim, index.view(view).expand(shape))
