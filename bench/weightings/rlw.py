"""Random loss weighting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Balancer, Task
from bench.weightings.balancers import WeightedBalancer


@dataclass(frozen=True)
class RandomWeights:
    """Random loss weighting (RLW): in every step new weights, the softmax of normal numbers.

    The weights sum to 1, so on average they are equal weights. MTL-UE's code writes the same loss as the mean
    of the losses, each times K softmax. It is one line here, and TorchJD takes a second to import.

    Source: Lin et al., TMLR 2022, arXiv:2111.10603, Alg. 2
    """

    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return the balancer, which draws from torch's global generator."""
        return _RLWBalancer()


class _RLWBalancer(WeightedBalancer):
    def weigh(self, losses: Float[Tensor, " t"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Draw the weights."""
        rank = (labeled.cumsum(0) - 1).clamp(min=0)  # the first draws are those of the labeled tasks
        return torch.randn_like(losses)[rank].where(labeled, -torch.inf).softmax(0)
