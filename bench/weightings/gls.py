"""Geometric loss strategy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Balancer, Task
from bench.weightings.balancers import WeightedBalancer

SMALLEST = 1e-8
"""Smaller losses are raised to this value: the geometric mean has no gradient if a loss is 0."""


@dataclass(frozen=True)
class GeometricMean:
    """Geometric loss strategy (GLS): the geometric mean of the tasks' losses.

    Its gradient weighs each of the n losses by mean / (n · loss), so a task's scale does not matter. It is
    one line here, and TorchJD takes a second to import.

    Source: Chennupati et al., CVPR Workshops 2019, arXiv:1904.08492
    """

    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return the balancer, which has no state."""
        return _GLSBalancer()


class _GLSBalancer(WeightedBalancer):
    def weigh(self, losses: Float[Tensor, " t"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Return the derivatives of the geometric mean by the losses."""
        losses = losses.clamp(min=SMALLEST)
        count = labeled.sum()
        return (losses.log().where(labeled, 0).sum() / count).exp() / (count * losses)
