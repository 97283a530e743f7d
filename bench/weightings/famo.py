"""Fast adaptive multitask optimization."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import WeightedBalancer

TINY = 1e-8
"""Added to every loss before its logarithm is taken, as in the paper's code."""


@dataclass(frozen=True)
class FAMO:
    """Fast adaptive multitask optimization: all losses shrink at the same rate, from loss values alone.

    The weights are softmax(ξ) / loss, scaled to sum to 1. After every step the losses of the same batch are
    computed again, and the logits ξ, which start at 0, are updated by their own Adam from the decrease of the
    logarithm of each loss. TorchJD's version needs a label of every task.

    Source: Liu et al., NeurIPS 2023, arXiv:2306.03792, Alg. 1; learning rate, and 0 as losses' lower bound:
    its code

    Attributes:
        learning_rate: of the logits.
        weight_decay: of the logits, the paper's γ.
    """

    learning_rate: Annotated[float, Gt(0)] = 0.025
    weight_decay: Annotated[float, Ge(0)] = 1e-3
    version: ClassVar[int] = 2

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer with one logit per task."""
        logits = torch.zeros(len(tasks), device=device)
        optimizer = torch.optim.Adam([logits], lr=self.learning_rate, weight_decay=self.weight_decay)
        return _FAMOBalancer(logits, optimizer)


class _FAMOBalancer(WeightedBalancer):
    def __init__(self, logits: Float[Tensor, " t"], optimizer: torch.optim.Optimizer) -> None:
        self._logits, self._optimizer = logits, optimizer

    def weigh(self, losses: Float[Tensor, " t"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Return the weights."""
        rates = self._logits.where(labeled, -torch.inf).softmax(0) / (losses + TINY)
        return rates / rates.sum()

    def finish_step(self, step: Step) -> None:
        """Move the logits along the gradient of Σ softmax(ξ) · decreases, over the labeled tasks."""
        decreases = (step.losses.detach() + TINY).log() - (step.recompute_losses() + TINY).log()
        known = step.labeled & decreases.isfinite()
        if not known.any():
            return
        shares = self._logits[known].softmax(0)
        gradient = torch.zeros_like(self._logits)
        gradient[known] = shares * (decreases[known] - shares @ decreases[known])
        self._logits.grad = gradient
        self._optimizer.step()
