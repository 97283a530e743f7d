"""No attack: the reference every protection is measured against."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import CraftContext, Norm
from bench.values import Batch, Split


@dataclass(frozen=True)
class Clean:
    """No perturbation at all.

    Not from a paper: the reference against which protection is measured.
    """

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True

    def craft(self, train: Split, context: CraftContext) -> "Clean":
        """Return the noise, which is this part itself: it has no state."""
        return self

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return zeros."""
        return torch.zeros_like(batch.images)
