"""Dual-balancing multi-task learning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.task_gradients import parameter_gradients, set_parameter_gradient

TINY = 1e-8
"""Added to every loss before its logarithm is taken, as in LibMTL."""


@dataclass(frozen=True)
class DualBalancing:
    """Dual-balancing (DB-MTL): logarithms of the losses, and gradients of the same length.

    Each task's gradient of log(loss) is averaged over the steps: the average of step k keeps β/k^decay of the
    one before. All averages are scaled to the length of the longest, and the shared parameters get their sum;
    heads get the gradient of their own log(loss). A task without a label in the batch keeps its average.

    Source: Lin et al., 2023, arXiv:2308.12029, Alg. 1

    Attributes:
        beta: how much of the average is kept, β; ``decay`` makes it smaller from step to step. The paper
            chooses it for every dataset.
        decay: see ``beta``. The authors' code has 0 by default, with which clean victims of the digits
            learned less.
    """

    beta: Annotated[float, Ge(0), Lt(1)] = 0.9
    decay: Annotated[float, Ge(0)] = 0.5
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer, which holds as many numbers per task as there are shared parameters."""
        return _DualBalancer(self.beta, self.decay, torch.zeros(len(tasks), 1, device=device))


class _DualBalancer(StatelessBalancer):
    def __init__(self, beta: float, decay: float, zeros: Float[Tensor, "t 1"]) -> None:
        self._beta, self._decay = beta, decay
        self._averages, self._steps = zeros, zeros

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the scaled averages into the shared parameters; return the weights of the losses."""
        losses = step.losses + TINY
        gradients = parameter_gradients(replace(step, losses=losses.log().where(step.labeled, 0)))
        present = step.labeled[:, None]
        self._steps = self._steps + present
        kept = self._beta / self._steps.clamp(min=1) ** self._decay
        self._averages = torch.where(present, gradients.lerp(self._averages, kept), self._averages)
        lengths = torch.linalg.vector_norm(self._averages, dim=1, dtype=torch.float64)
        known = step.labeled & (lengths > 0) & lengths.isfinite()
        longest = lengths.where(known, 0).max()
        scales = (longest / lengths).where(known, 0)
        combined = (scales[:, None] * self._averages.where(known[:, None], 0)).sum(0)
        set_parameter_gradient(step, combined.to(gradients.dtype))
        weights: Tensor = (scales / losses.detach()).to(gradients.dtype)
        return weights
