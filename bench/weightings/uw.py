"""Uncertainty weighting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer


@dataclass(frozen=True)
class UncertaintyWeights:
    """Uncertainty weighting (UW): a learned variance exp(s) per task; the loss is Σ L / (2 exp(s)) + s / 2.

    The log-variances s are trained by the network's optimizer. At fixed losses s converges to log L, where
    every task has the same share of the loss. TorchJD's version needs a label of every task.

    Source: Kendall et al., CVPR 2018, arXiv:1705.07115; start value and form: public code of Yu et al.,
    ICML 2025 (MTL-UE)

    Departs from the paper: its form for regression is used for every kind of loss, as in MTL-UE's code; the
    paper has L / exp(s) for classification.

    Attributes:
        start_value: of every s.
    """

    start_value: float = -0.5
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer with one log-variance per task."""
        return _UWBalancer(torch.full((len(tasks),), self.start_value, device=device))


class _UWBalancer(StatelessBalancer):
    def __init__(self, log_variances: Float[Tensor, " t"]) -> None:
        self._log_variances = nn.Parameter(log_variances)

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the log-variances."""
        return (self._log_variances,)

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the loss, without the terms of tasks that have no label; return 1 / (2 exp(s))."""
        weights = torch.exp(-self._log_variances) / 2
        terms = weights * step.losses + self._log_variances / 2
        terms.where(step.labeled, 0).sum().backward()
        return weights.detach() * step.labeled
