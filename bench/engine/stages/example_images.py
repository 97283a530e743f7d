"""Which images of a poison are kept to be looked at."""

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from bench.engine.stages.budget import apply_poison
from bench.example_images import ExampleImages
from bench.values import Budget

COUNT = 4
"""Number of images per poison."""

MAX_SIDE = 256
"""The longest side that is stored, in pixels: a picture of many images has no room for more."""


def select_example_images(
    clean: UInt8[Tensor, "n c h w"], change: Int[Tensor, "n c h w"], budget: Budget | None, attack: str
) -> ExampleImages:
    """Return images at fixed places, spread evenly over the training set, clean and as released."""
    count = min(COUNT, len(clean))
    rows = [(2 * number + 1) * len(clean) // (2 * count) for number in range(count)]
    originals = clean[rows]
    released = apply_poison(originals, change[rows], budget, attack)
    return ExampleImages(
        np.array(rows), _shrink(originals).numpy(), _shrink(released).numpy(), max(clean.shape[2:])
    )


def _shrink(images: UInt8[Tensor, "k c h w"]) -> UInt8[Tensor, "k c H W"]:
    """Return images with at most `MAX_SIDE` pixels on a side; a pixel is the mean of those it stands for."""
    height, width = images.shape[2:]
    if max(height, width) <= MAX_SIDE:
        return images
    scale = MAX_SIDE / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return interpolate(images.float(), size, mode="area").round().to(torch.uint8)
