"""Adapting networks made for ImageNet to other images."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import BenchError
from bench.values import Shape


def replace_input_channels(
    net: nn.Module, channels: int, initialize: Callable[[Tensor], object] | None = None
) -> None:
    """Replace a network's first convolution by one for this many channels, if it has another number.

    Args:
        net: changed in place.
        channels: of the images.
        initialize: draws the weights [o c k k] in place; None: from a normal distribution with the variance
            of the old weights. Biases are zero.
    """
    name, old = next((name, part) for name, part in net.named_modules() if isinstance(part, nn.Conv2d))
    if channels == old.in_channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    spread = old.weight.std().item()
    draw_weights(new, initialize or (lambda weight: nn.init.normal_(weight, std=spread)))
    net.set_submodule(name, new)


def draw_weights(convolution: nn.Conv2d, initialize: Callable[[Tensor], object]) -> None:
    """Draw a convolution's weights anew; its biases are zero."""
    initialize(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def he_normal(weight: Tensor) -> None:
    """Draw the weights of a convolution as torchvision's ResNets and VGGs do.

    Source: He et al., ICCV 2015, arXiv:1502.01852, section 2.2: normal, by the fan-out
    """
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def store_channels_last(net: nn.Module) -> None:
    """Store a network's filters channels last: some networks compute faster so, and differ by rounding."""
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def require_side(least: int, name: str, shape: Shape) -> None:
    """Check that images are large enough for a network's poolings.

    Raises:
        BenchError: when a side is shorter than ``least`` pixels.
    """
    _, height, width = shape
    if min(height, width) < least:
        raise BenchError(
            f"backbone {name!r} takes images of at least {least} px a side, not {height}x{width}"
        )


class Resized(nn.Module):
    """A network for images of one size, which scales all others to it (bilinear)."""

    def __init__(self, net: nn.Module, sides: tuple[int, int]) -> None:
        super().__init__()
        self.net = net
        self.sides = sides

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the network's features."""
        if images.shape[2:] != self.sides:
            images = functional.interpolate(images, size=self.sides, mode="bilinear")
        features: Tensor = self.net(images)
        return features
