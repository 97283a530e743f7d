"""A small convolutional network for CPUs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import nn

from bench.api import Shape

GRID = 4
"""Side of the last feature map. It is flattened, not averaged: tasks such as *left digit* ask where."""


@dataclass(frozen=True)
class Small:
    """Four 3×3 convolutions with batch normalisation, flattened from a 4×4 grid, for any image size.

    Not from a paper: a plain VGG-like network that trains at thousands of 32-pixel images per second on two
    CPU cores.

    Attributes:
        width: channels of the first convolution; the later ones have 2, 4 and 4 times as many.
    """

    width: Annotated[int, Ge(1)] = 16
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 64·width] for images of any size, and its width."""
        return nn.Sequential(*self._layers(shape[0])), 4 * self.width * GRID**2

    def _layers(self, channels: int) -> Iterator[nn.Module]:
        widths = [self.width, 2 * self.width, 4 * self.width, 4 * self.width]
        for stage, width in enumerate(widths):
            yield nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
            yield nn.BatchNorm2d(width)
            yield nn.ReLU(inplace=True)
            if stage < len(widths) - 1:
                yield nn.MaxPool2d(2, ceil_mode=True)
            channels = width
        yield nn.AdaptiveAvgPool2d(GRID)
        yield nn.Flatten()
