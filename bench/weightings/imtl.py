"""Impartial multi-task learning: both of its balances together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.unit_gradients import ImpartialGradients


@dataclass(frozen=True)
class ImpartialLearning(ImpartialGradients):
    """Impartial multi-task learning (IMTL): losses of one size, and a step as far along each task's gradient.

    Learned scales bring the losses to one size, as `imtl-l` does, for the heads. The shared parameters get
    the step of `imtl-g` for the gradients of the scaled losses. As in the paper, gradients are those of the
    features.

    Source: Liu et al., ICLR 2021, "Toward Impartial Multi-task Learning", Alg. 1

    Attributes:
        gradients: which gradients are weighed: those of all shared parameters, or of the features only.
    """

    gradients: Literal["parameters", "features"] = "features"
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer with one scale per task."""
        return _IMTLBalancer(torch.zeros(len(tasks), device=device), super().start(tasks, device))


class _IMTLBalancer(StatelessBalancer):
    def __init__(self, log_scales: Float[Tensor, " t"], gradients: Balancer) -> None:
        self._log_scales = nn.Parameter(log_scales)
        self._gradients = gradients

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the logarithms of the scales."""
        return (self._log_scales,)

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Balance the gradients of exp(s) loss - s; return the weights of the losses as they are."""
        scales = torch.exp(self._log_scales)
        losses = (scales * step.losses - self._log_scales).where(step.labeled, 0)
        return self._gradients.backward(replace(step, losses=losses)) * scales.detach()
