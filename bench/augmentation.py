"""The augmentation of the field: a random crop and a random flip, drawn for every image on its own."""

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import Augmentation


def augment(
    images: Float[Tensor, "b c h w"], augmentation: Augmentation, *, shared: bool = False
) -> Float[Tensor, "b c s s2"]:
    """Return a random crop of every image, flipped left-right with probability one half.

    Gradients pass through; every output pixel is one input pixel. With ``shared`` one crop and one flip are
    drawn for all images.
    """
    if shared:
        count, channels, height, width = images.shape
        together = augment(images.reshape(1, count * channels, height, width), augmentation)
        return together.reshape(count, channels, *together.shape[2:])
    count, _, height, width = images.shape
    side = augmentation.crop
    if side is not None:
        top = torch.randint(0, height - side + 1, (count,), device=images.device)
        images = _pick(images, 2, top[:, None] + torch.arange(side, device=images.device))
        width_index = torch.randint(0, width - side + 1, (count,), device=images.device)[:, None]
        columns = width_index + torch.arange(side, device=images.device)
    else:
        columns = torch.arange(width, device=images.device).expand(count, -1)
    if augmentation.flip:
        flipped = torch.rand(count, 1, device=images.device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    return images if side is None and not augmentation.flip else _pick(images, 3, columns)


def center(images: Float[Tensor, "b c h w"], augmentation: Augmentation) -> Float[Tensor, "b c s s2"]:
    """Return the central crop: what augmented training images are tested with."""
    side = augmentation.crop
    if side is None:
        return images
    top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
    return images[:, :, top : top + side, left : left + side]


def _pick(images: Tensor, dim: int, index: Tensor) -> Tensor:
    """Pick rows (dim 2) or columns (dim 3) of every image by its own index [b s]."""
    shape = list(images.shape)
    shape[dim] = index.shape[1]
    view = [len(index), 1, 1, 1]
    view[dim] = index.shape[1]
    return images.gather(dim, index.view(view).expand(shape))
