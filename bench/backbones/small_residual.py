"""A small residual network for CPUs, unlike `small` in normalization, activation and depth."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from bench.backbones.small import GRID, GridMeans
from bench.backbones.surgery import store_channels_last
from bench.values import Shape

GROUP = 2
"""Channels that are normalized together.

With four groups of 6 to 18 channels, a wider network learned less of the embedded digits in the same steps. A
guess: in large groups, the digits count little beside their backgrounds, which differ in color.
"""


@dataclass(frozen=True)
class SmallResidual:
    """Three pre-activation residual blocks with group norm and GELU, flattened from a 4×4 grid.

    A victim unlike a surrogate `small`: seven 3×3 convolutions with shortcuts, no statistics of the batch,
    and strides in place of pooling. It takes images of any size.

    Source: He et al., ECCV 2016, arXiv:1603.05027 (pre-activation blocks); Wu and He, ECCV 2018,
    arXiv:1803.08494 (group norm); Hendrycks and Gimpel, 2016, arXiv:1606.08415 (GELU)

    Departs from the papers: one block per stage, GELU for ReLU, groups of two channels, and no mean over all
    positions, because tasks such as *left digit* need them.

    Attributes:
        width: pairs of channels of the first block; the later ones have 2 and 3 times as many.
    """

    width: Annotated[int, Ge(1)] = 8
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 96·width] for images of any size, and its width."""
        encoder = nn.Sequential(*self._layers(shape[0]))
        store_channels_last(encoder)
        return encoder, 3 * GROUP * self.width * GRID**2

    def _layers(self, channels: int) -> Iterator[nn.Module]:
        widths = [GROUP * self.width * factor for factor in (1, 2, 3)]
        yield nn.Conv2d(channels, widths[0], kernel_size=3, stride=2, padding=1)
        for before, width in zip((widths[0], *widths), widths, strict=False):
            yield _Block(before, width, stride=1 if before == width else 2)
        yield nn.GroupNorm(widths[-1] // GROUP, widths[-1])
        yield nn.GELU()
        yield GridMeans(GRID)
        yield nn.Flatten()


class _Block(nn.Module):
    """Two convolutions, each after group norm and GELU, added to the input."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(channels // GROUP, channels),
            nn.GELU(),
            nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        )
        self.second = nn.Sequential(
            nn.GroupNorm(width // GROUP, width),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
        )
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, kernel_size=1, stride=stride)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Return the sum of the two ways."""
        total: Tensor = self.shortcut(maps) + self.second(self.first(maps))
        return total
