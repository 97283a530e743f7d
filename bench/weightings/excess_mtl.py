"""Multi-task learning with excess risks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.task_gradients import parameter_gradients, set_parameter_gradient

TINY = 1e-7
"""Added to the squares of gradients under the root, as in the paper's code; least mean of the warm-up."""


@dataclass(frozen=True)
class ExcessRisks:
    """Robust multi-task learning with excess risks (ExcessMTL): tasks far from their best loss weigh more.

    The excess risk of a task is estimated as Σ g² / h over the shared parameters, with g its gradient and h
    the root of the sum of all its squared gradients so far. It is divided by its mean over the warm-up, in
    which all tasks weigh the same. Then the weights are multiplied by exp(η · excess risk) in every step and
    scaled to sum to 1. TorchJD's version needs a label of every task.

    Source: He et al., ICML 2024, "Robust Multi-Task Learning with Excess Risks", Eqs. 6, 7 and 9; the
    warm-up: its appendix C.1

    Departs from the paper: heads' gradients are not weighted.

    Attributes:
        step_size: of the weights, η; the default is that of the authors' code. With η = 1, TorchJD's default,
            one task soon has all the weight: on the embedded digits after 2 epochs.
        warmup: epochs of the warm-up.
    """

    step_size: Annotated[float, Gt(0)] = 0.01
    warmup: Annotated[int, Ge(1)] = 3
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer, which holds as many numbers per task as there are shared parameters."""
        return _ExcessBalancer(self.step_size, self.warmup, torch.zeros(len(tasks), device=device))


class _ExcessBalancer(StatelessBalancer):
    def __init__(self, step_size: float, warmup: int, zeros: Float[Tensor, " t"]) -> None:
        self._step_size, self._left = step_size, warmup
        self._log_weights, self._total, self._steps = zeros, zeros, zeros
        self._squares: Tensor | None = None

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted gradients into the shared parameters; return the weights."""
        gradients = parameter_gradients(step)
        excess = self._estimate_excess(gradients)
        known = step.labeled & (excess > 0) & excess.isfinite()
        if self._left > 0:
            self._total = self._total + excess.where(known, 0)
            self._steps = self._steps + known
        else:
            usual = (self._total / self._steps).where(self._steps > 0, excess).clamp(min=TINY)
            gains = (self._step_size * excess / usual).where(known, 0)
            self._log_weights = (self._log_weights + gains).log_softmax(0)
        weights = self._log_weights.where(step.labeled, -torch.inf).softmax(0).nan_to_num(0)
        set_parameter_gradient(step, weights @ gradients)
        return weights

    def _estimate_excess(self, gradients: Float[Tensor, "t p"]) -> Float[Tensor, " t"]:
        """Add the squared gradients to those so far and return the excess risk of every task."""
        squares = gradients**2
        self._squares = squares.clone() if self._squares is None else self._squares + squares
        return (squares / (self._squares + TINY).sqrt()).sum(1)

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Count the epochs of the warm-up."""
        self._left -= 1
