"""The loss balance of impartial multi-task learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer


@dataclass(frozen=True)
class ImpartialLosses:
    """Impartial multi-task learning's loss balance (IMTL-L): learned scales bring all losses to one size.

    The loss is Σ exp(s) L - s; the scales s start at 0 and are trained by the network's optimizer. At fixed
    losses s converges to where every exp(s) L is 1. TorchJD's version needs a label of every task.

    Source: Liu et al., ICLR 2021, "Toward Impartial Multi-task Learning"
    """

    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer with one scale per task."""
        return _IMTLLBalancer(torch.zeros(len(tasks), device=device))


class _IMTLLBalancer(StatelessBalancer):
    def __init__(self, log_scales: Float[Tensor, " t"]) -> None:
        self._log_scales = nn.Parameter(log_scales)

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the logarithms of the scales."""
        return (self._log_scales,)

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the loss, without the terms of tasks that have no label; return exp(s)."""
        weights = torch.exp(self._log_scales)
        terms = weights * step.losses - self._log_scales
        terms.where(step.labeled, 0).sum().backward()
        return weights.detach() * step.labeled
