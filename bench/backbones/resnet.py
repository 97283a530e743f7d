"""ResNet-18 as the paper's victim has it."""

from bench import vision  # noqa: F401 - the door comes first

# isort: split
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torchvision import models


@dataclass(frozen=True)
class ResNet18:
    """ResNet-18 with its 7×7 stride-2 stem and max-pooling, also for small images, untrained.

    Source: He et al., CVPR 2016, arXiv:1512.03385; as victim: Yu et al., ICML 2025 (MTL-UE), section 5.1
    """

    version: ClassVar[int] = 1

    def build(self, channels: int) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 512] and its width."""
        net = models.resnet18(weights=None)
        if channels != net.conv1.in_channels:
            net.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        width: int = net.fc.in_features
        net.fc = nn.Identity()
        return net, width
