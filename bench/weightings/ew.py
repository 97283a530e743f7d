"""Equal weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer


@dataclass(frozen=True)
class EqualWeights:
    """Equal weights (linear scalarization): the mean of the tasks' losses.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, "LS"; called EW in LibMTL, which sums instead
    """

    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return the balancer, which has no state."""
        return _EqualBalancer()


class _EqualBalancer(StatelessBalancer):
    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the mean loss; every weight is 1/t."""
        step.losses.mean().backward()
        return torch.full_like(step.losses, 1 / len(step.losses))
