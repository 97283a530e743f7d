"""A small convolutional network for CPUs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from bench.backbones.surgery import store_channels_last
from bench.values import Shape

GRID = 4
"""Side of the last feature map. It is flattened, not averaged: tasks such as *left digit* need positions."""


@dataclass(frozen=True)
class Small:
    """Four 3×3 convolutions with batch normalization, flattened from a 4×4 grid, for any image size.

    Not from a paper: a plain VGG-like network that trains at thousands of 32-pixel images per second on two
    CPU cores.

    Attributes:
        width: channels of the first convolution; the later ones have 2, 4 and 4 times as many.
    """

    width: Annotated[int, Ge(1)] = 16
    version: ClassVar[int] = 2
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 64·width] for images of any size, and its width."""
        encoder = nn.Sequential(*self._layers(shape[0]))
        store_channels_last(encoder)
        return encoder, 4 * self.width * GRID**2

    def _layers(self, channels: int) -> Iterator[nn.Module]:
        widths = [self.width, 2 * self.width, 4 * self.width, 4 * self.width]
        for stage, width in enumerate(widths):
            yield nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
            yield nn.BatchNorm2d(width)
            yield nn.ReLU(inplace=True)
            if stage < len(widths) - 1:
                yield nn.MaxPool2d(2, ceil_mode=True)
            channels = width
        yield GridMeans(GRID)
        yield nn.Flatten()


class GridMeans(nn.AdaptiveAvgPool2d):
    """The mean of every cell of a square grid; in deterministic mode with such a gradient on CUDA, too."""

    output_size: int

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c g g"]:
        """Return the means."""
        if torch.are_deterministic_algorithms_enabled():
            return cell_means(maps, self.output_size)
        means: Tensor = super().forward(maps)
        return means


def cell_means(maps: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c g g"]:
    """Return the means of ``cells`` cells per side, as adaptive average pooling does, computed cell by cell.

    A cell includes the pixels that it covers in part, so neighboring cells may overlap.
    """
    rows, columns = (
        [slice(side * i // cells, -(-side * (i + 1) // cells)) for i in range(cells)]
        for side in maps.shape[2:]
    )
    means = [maps[..., row, column].mean((2, 3)) for row in rows for column in columns]
    grid: Tensor = torch.stack(means, dim=2).unflatten(2, (cells, cells))
    return grid
