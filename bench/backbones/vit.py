"""ViT-B/16 for small images."""

from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor, nn

from bench import torchvision_import
from bench.backbones.surgery import Resized, replace_input_channels
from bench.values import Shape

PATCH: Final = 16


@dataclass(frozen=True)
class ViTB16:
    """ViT-B/16, built for the images' size, untrained; its features are those of the class token.

    It is for squares with the images' longer side, rounded to whole patches of 16 px; images of another size
    are scaled to that.

    Source: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; as victim: Yu et al., ICML 2025 (MTL-UE),
    section 5.1

    Departs from the paper: the code of MTL-UE builds it for 128 px and reads the first 17 of its 65 position
    embeddings on crops of 64 px, normalizes patches before and after they are embedded, and draws position
    embeddings 50 times as large.
    """

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 768] for images of any size, and its width."""
        channels, height, width = shape
        side = max(1, (max(height, width) + PATCH // 2) // PATCH) * PATCH
        net = torchvision_import.models.vit_b_16(weights=None, image_size=side)
        replace_input_channels(net, channels, _initialize)
        net.heads = nn.Identity()
        return Resized(net, (side, side)), net.hidden_dim


def _initialize(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=weight[0].numel() ** -0.5)
