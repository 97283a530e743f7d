"""Smooth Tchebycheff scalarization."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Balancer, Task
from bench.weightings.balancers import WeightedBalancer
from bench.weightings.gls import SMALLEST


@dataclass(frozen=True)
class SmoothTchebycheff:
    """Smooth Tchebycheff scalarization (STCH): a smooth maximum of how much of its loss each task has left.

    With r a task's loss relative to its mean loss at the end of the warm-up, the loss is
    μ log Σ exp(log r / μ), whose gradient weighs each loss by softmax(log r / μ) / loss. In the warm-up it is
    the mean of the losses' logarithms. TorchJD's version needs a label of every task.

    Source: Lin et al., ICML 2024, arXiv:2402.19078, Eq. 6; logarithms, reference and length of the warm-up:
    its multi-task code, as LibMTL has it

    Attributes:
        mu: the smoothing μ; the smaller, the more only the worst task counts. The paper tries 0.01 to 1.
        warmup: epochs of the warm-up.
    """

    mu: Annotated[float, Gt(0)] = 1.0
    warmup: Annotated[int, Ge(1)] = 5
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer, which counts the epochs."""
        return _STCHBalancer(self.mu, self.warmup)


class _STCHBalancer(WeightedBalancer):
    def __init__(self, mu: float, warmup: int) -> None:
        self._mu, self._left = mu, warmup
        self._reference: Tensor | None = None

    def weigh(self, losses: Float[Tensor, " t"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Return the derivatives of the smooth maximum by the losses."""
        losses = losses.clamp(min=SMALLEST)
        logs = torch.zeros_like(losses) if self._reference is None else (losses / self._reference).log()
        return (logs / self._mu).where(labeled, -torch.inf).softmax(0) / losses

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Remember the losses of the last epoch of the warm-up; 1 for a task without a label in it."""
        self._left -= 1
        if self._left == 0:
            self._reference = losses.where(losses > 0, 1.0).clamp(min=SMALLEST)
