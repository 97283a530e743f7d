"""DenseNet-121 as the paper's victim has it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from bench import torchvision_import
from bench.backbones.surgery import require_side, store_channels_last
from bench.values import Shape


@dataclass(frozen=True)
class DenseNet121:
    """DenseNet-121 for small images: its stem is one 3×3 convolution without stride or pooling; untrained.

    Source: Huang et al., CVPR 2017, arXiv:1608.06993; as victim: Yu et al., ICML 2025 (MTL-UE), section 5.1

    Departs from the paper: of Huang et al., in the stem, which is that of the code of MTL-UE; of that code,
    in the initial weights, which are torchvision's, and in training the last batch normalization too.
    """

    version: ClassVar[int] = 2
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 1024] and its width.

        Raises:
            BenchError: when a side is shorter than 8 px, which three poolings reduce to nothing.
        """
        require_side(8, "densenet121", shape)
        net = torchvision_import.models.densenet121(weights=None)
        stem = nn.Conv2d(shape[0], 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight)
        net.features.conv0 = stem
        for name in ("norm0", "relu0", "pool0"):
            delattr(net.features, name)
        width: int = net.classifier.in_features
        net.classifier = nn.Identity()
        store_channels_last(net)
        return net, width
