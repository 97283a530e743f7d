"""Dynamic weight average."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Balancer, Task
from bench.weightings.balancers import WeightedBalancer


@dataclass(frozen=True)
class DynamicWeightAverage:
    """Dynamic weight average (DWA): a task whose loss falls slowly gets more weight.

    The weights are K softmax(r / T) for K tasks, so they sum to K. Here r is a task's mean loss over the last
    epoch, divided by that over the epoch before; in the first two epochs every weight is 1. TorchJD's version
    computes the epochs' means itself, which the training loop already has.

    Source: Liu et al., CVPR 2019, arXiv:1803.10704

    Attributes:
        temperature: the T of the softmax; larger is more even.
    """

    temperature: Annotated[float, Gt(0)] = 2.0
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer that remembers the mean losses of two epochs."""
        return _DWABalancer(self.temperature)


class _DWABalancer(WeightedBalancer):
    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._epochs: list[Tensor] = []

    def weigh(self, losses: Float[Tensor, " t"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Return the epoch's weights."""
        if len(self._epochs) < 2:
            return torch.ones_like(losses)
        before, last = self._epochs
        ratios = torch.where(before > 0, last / before, 1.0)
        return len(ratios) * (ratios / self._temperature).softmax(0)

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Keep the mean losses of the last two epochs."""
        self._epochs = [*self._epochs, losses][-2:]
