"""Equal weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Task


@dataclass(frozen=True)
class EqualWeights:
    """Equal weights (linear scalarisation): the mean of the tasks' losses.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, "LS"; called EW in LibMTL, which sums instead
    """

    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task]) -> "EqualWeights":
        """Return the balancer: equal weights have no state, so it is this part itself."""
        return self

    def backward(self, losses: Float[Tensor, " t"], shared: Sequence[nn.Parameter]) -> Float[Tensor, " t"]:
        """Back-propagate the mean loss; every weight is 1/t."""
        losses.mean().backward()
        return torch.full_like(losses, 1 / len(losses))
