"""ResNets as the paper's victims have them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from bench import torchvision_import
from bench.backbones.surgery import he_normal, replace_input_channels
from bench.values import Shape


@dataclass(frozen=True)
class ResNet18:
    """ResNet-18 with its 7×7 stride-2 stem and max-pooling, also for small images, untrained.

    Source: He et al., CVPR 2016, arXiv:1512.03385; as victim: Yu et al., ICML 2025 (MTL-UE), section 5.1
    """

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 512] for images of any size, and its width."""
        return _without_classifier(torchvision_import.models.resnet18(weights=None), shape[0])


@dataclass(frozen=True)
class ResNet50:
    """ResNet-50 with its 7×7 stride-2 stem and max-pooling, also for small images, untrained.

    Source: He et al., CVPR 2016, arXiv:1512.03385; as victim: Yu et al., ICML 2025 (MTL-UE), section 5.1

    Departs from the paper: of He et al., in a bottleneck's stride, which is that of its 3×3 convolution, as
    in torchvision and in the code of MTL-UE.
    """

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 2048] for images of any size, and its width."""
        return _without_classifier(torchvision_import.models.resnet50(weights=None), shape[0])


def _without_classifier(net: Any, channels: int) -> tuple[nn.Module, int]:
    replace_input_channels(net, channels, he_normal)
    width: int = net.fc.in_features
    net.fc = nn.Identity()
    return net, width
