"""Fast adaptive multitask optimization."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Balancer, Task
from bench.weightings.weighted import Weighted

TINY = 1e-8
"""Added to every loss before its logarithm is taken, as in the paper's code."""


@dataclass(frozen=True)
class FAMO:
    """Fast adaptive multitask optimization: all losses shrink at the same rate, from loss values alone.

    The weights are softmax(ξ) / loss, scaled to sum to 1. After every step the logits ξ, which start at 0,
    learn from how far the logarithm of each loss fell, with an Adam of their own.

    Source: Liu et al., NeurIPS 2023, arXiv:2306.03792, Alg. 1; learning rate, and 0 as losses' lower bound:
    its code

    Departs from the paper: how far a loss fell is taken from one batch to the next, since a weighting sees a
    batch once; the paper computes the losses of the same batch again after the step. Written here because
    TorchJD's asks for these losses, and for one of every task.

    Attributes:
        learning_rate: of the logits.
        weight_decay: of the logits, the paper's γ.
    """

    learning_rate: Annotated[float, Gt(0)] = 0.025
    weight_decay: Annotated[float, Ge(0)] = 1e-3
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer with one logit per task."""
        logits = torch.zeros(len(tasks), device=device)
        optimizer = torch.optim.Adam([logits], lr=self.learning_rate, weight_decay=self.weight_decay)
        return _Adaptive(logits, optimizer)


class _Adaptive(Weighted):
    def __init__(self, logits: Float[Tensor, " t"], optimizer: torch.optim.Optimizer) -> None:
        self._logits, self._optimizer = logits, optimizer
        self._before = torch.full_like(logits, torch.nan)

    def weigh(self, losses: Float[Tensor, " m"], labelled: Bool[Tensor, " t"]) -> Float[Tensor, " m"]:
        """Learn from the step before, and return the weights."""
        now = torch.full_like(self._logits, torch.nan)
        now[labelled] = (losses + TINY).log()
        self._learn(self._before - now)
        self._before = torch.where(labelled, now, self._before)
        rates = self._logits[labelled].softmax(0) / (losses + TINY)
        return rates / rates.sum()

    def _learn(self, falls: Float[Tensor, " t"]) -> None:
        """Move the logits along the gradient of Σ softmax(ξ) · falls; a fall that is not known is NaN."""
        known = falls.isfinite()
        if not known.any():
            return
        shares = self._logits[known].softmax(0)
        gradient = torch.zeros_like(self._logits)
        gradient[known] = shares * (falls[known] - shares @ falls[known])
        self._logits.grad = gradient
        self._optimizer.step()
