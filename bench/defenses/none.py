"""No defense: the victim trains on what was released."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import UInt8
from torch import Tensor, nn

from bench.api import Batch


@dataclass(frozen=True)
class NoDefense:
    """Nothing is done; the counterpart every defense is compared with.

    Source: the undefended victim of Yu et al., ICML 2025 (MTL-UE)
    """

    version: ClassVar[int] = 1

    def purify(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return the images themselves."""
        return images

    def augment(self, batch: Batch, net: nn.Module) -> Batch:
        """Return the batch itself."""
        return batch
