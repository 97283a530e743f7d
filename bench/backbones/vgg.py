"""VGG-16 as the paper's victim has it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from bench import torchvision_import
from bench.backbones.surgery import draw_weights, he_normal, replace_input_channels, require_side
from bench.values import Shape


@dataclass(frozen=True)
class VGG16:
    """The thirteen convolutions of VGG-16 with batch normalization, averaged over the image, untrained.

    Source: Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556; as victim: Yu et al., ICML 2025 (MTL-UE),
    section 5.1

    Departs from the paper: of Simonyan & Zisserman, in batch normalization, and in the average in place of
    two hidden layers of 4096, both as in the code of MTL-UE.
    """

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 512] and its width.

        Raises:
            BenchError: when a side is shorter than 32 px, which five poolings reduce to nothing.
        """
        require_side(32, "vgg16", shape)
        # Not from torchvision's vgg16_bn: drawing the weights of its classifier takes seconds.
        vgg = torchvision_import.models.vgg
        features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
        for part in features:
            if isinstance(part, nn.Conv2d):
                draw_weights(part, he_normal)
        replace_input_channels(features, shape[0], he_normal)
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512
