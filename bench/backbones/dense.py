"""Backbones for dense tasks: a map of features, and a decoder for every task."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import nn

from bench import torchvision_import
from bench.backbones.surgery import he_normal, replace_input_channels, store_channels_last
from bench.values import Shape


@dataclass(frozen=True)
class _DeepLab:
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = True

    def decoder(self, features: int, outputs: int) -> nn.Module:
        """Return atrous spatial pyramid pooling and two convolutions, [b d h' w'] → [b o h' w']."""
        head: nn.Module = torchvision_import.models.segmentation.deeplabv3.DeepLabHead(features, outputs)
        return head


@dataclass(frozen=True)
class DilatedResNet50(_DeepLab):
    """ResNet-50 at an eighth of the image's resolution, its last stages dilated; one DeepLabv3 head per task.

    Source: Chen et al., 2017, arXiv:1706.05587 (DeepLabv3); as multi-task network for NYUv2: Lin & Zhang,
    JMLR 2023, arXiv:2203.14338 (LibMTL)

    Departs from the paper: untrained, where both start from weights for ImageNet.
    """

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 2048 h/8 w/8] for images of any size, and its width."""
        return _dilated(torchvision_import.models.resnet50(weights=None), shape[0])


@dataclass(frozen=True)
class DilatedResNet18(_DeepLab):
    """ResNet-18 at an eighth of the image's resolution, its last stages dilated; one DeepLabv3 head per task.

    Source: Chen et al., 2017, arXiv:1706.05587 (DeepLabv3); as multi-task network: Lin & Zhang, JMLR 2023,
    arXiv:2203.14338 (LibMTL)

    Departs from the paper: untrained, where both start from weights for ImageNet.
    """

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 512 h/8 w/8] for images of any size, and its width."""
        return _dilated(torchvision_import.models.resnet18(weights=None), shape[0])


def _dilated(net: Any, channels: int) -> tuple[nn.Module, int]:
    replace_input_channels(net, channels, he_normal)
    _dilate(net.layer3, 2)
    _dilate(net.layer4, 4)
    width: int = net.fc.in_features
    # Of its children, in the order of its forward pass, the last two average the map and classify.
    return nn.Sequential(*list(net.children())[:-2]), width


def _dilate(stage: nn.Module, dilation: int) -> None:
    """Remove the stride of a stage whose input has ``dilation // 2`` times the resolution it was made for.

    The convolutions after the stride then have ``dilation`` times the resolution and are dilated by it.
    """
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            spacing = dilation // 2 if conv.stride == (2, 2) else dilation
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (spacing, spacing)


@dataclass(frozen=True)
class DenseSmall:
    """Five 3×3 convolutions at a quarter of the image's resolution, the last ones dilated, for CPUs.

    Not from a paper: a plain network; every point of its map depends on 63×63 pixels of the image. A task's
    decoder is two convolutions.

    Attributes:
        width: channels of the first convolution; the later ones have 2, 4, 4 and 4 times as many.
    """

    width: Annotated[int, Ge(1)] = 16
    version: ClassVar[int] = 2
    dense: ClassVar[bool] = True

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 4·width h/4 w/4] for images of any size, and its width."""
        encoder = nn.Sequential(*self._layers(shape[0]))
        store_channels_last(encoder)
        return encoder, 4 * self.width

    def _layers(self, channels: int) -> Iterator[nn.Module]:
        for factor, stride, dilation in ((1, 2, 1), (2, 2, 1), (4, 1, 1), (4, 1, 2), (4, 1, 4)):
            yield from _convolution(channels, factor * self.width, stride, dilation)
            channels = factor * self.width

    def decoder(self, features: int, outputs: int) -> nn.Module:
        """Return a 3×3 and a 1×1 convolution, [b d h' w'] → [b o h' w']."""
        hidden = 2 * self.width
        head = nn.Sequential(*_convolution(features, hidden), nn.Conv2d(hidden, outputs, kernel_size=1))
        store_channels_last(head)
        return head


def _convolution(channels: int, width: int, stride: int = 1, dilation: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
    yield nn.BatchNorm2d(width)
    yield nn.ReLU(inplace=True)
