"""GradNorm: gradients of similar size for tasks that learn at similar rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.task_gradients import gradients_by_task


@dataclass(frozen=True)
class GradNorm:
    """GradNorm: learned weights bring each task's gradient norm to a target set by its rate of learning.

    The norms are those in the last shared layer. A task's target is the mean norm times r^α, where r is the
    task's loss relative to its first one, divided by the mean of that over the tasks. The weights start at 1,
    follow the targets with their own Adam, and are scaled to sum to the number of tasks.

    Source: Chen et al., ICML 2018, arXiv:1711.02257, Alg. 1; Adam and its learning rate: appendix A

    Departs from the paper: weights cannot go below 0.

    Attributes:
        asymmetry: the α: how strongly tasks that lag behind are pulled.
        learning_rate: of the weights.
    """

    asymmetry: Annotated[float, Ge(0)] = 1.5
    learning_rate: Annotated[float, Gt(0)] = 0.025
    version: ClassVar[int] = 1

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer with one weight per task."""
        weights = torch.ones(len(tasks), device=device)
        return _GradNormBalancer(weights, torch.optim.Adam([weights], lr=self.learning_rate), self.asymmetry)


class _GradNormBalancer(StatelessBalancer):
    def __init__(
        self, weights: Float[Tensor, " t"], optimizer: torch.optim.Optimizer, asymmetry: float
    ) -> None:
        self._weights, self._optimizer, self._asymmetry = weights, optimizer, asymmetry
        self._first = torch.zeros_like(weights)

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted sum of the losses; move the weights; return those that were used."""
        used = self._weights * step.labeled
        layer = _last_layer(step.shared)
        norms = torch.zeros_like(used)
        if layer is not None:
            norms = gradients_by_task(step, layer).flatten(1).norm(dim=1)
        (used * step.losses).sum().backward()
        self._move_weights(norms, step.losses.detach())
        return used

    def _move_weights(self, norms: Float[Tensor, " t"], losses: Float[Tensor, " t"]) -> None:
        """Take one step toward the targets; tasks without a gradient do not count."""
        self._first = torch.where(self._first > 0, self._first, losses)
        counted = (norms > 0) & (self._first > 0)
        if not counted.any():
            return
        weighted = self._weights * norms
        rates = losses / self._first
        targets = weighted[counted].mean() * (rates / rates[counted].mean()) ** self._asymmetry
        self._weights.grad = torch.where(counted, norms * (weighted - targets).sign(), 0.0)
        self._optimizer.step()
        self._weights.clamp_(min=0)
        self._weights.mul_(len(self._weights) / self._weights.sum())


def _last_layer(shared: Sequence[nn.Parameter]) -> nn.Parameter | None:
    """Return the weights, without biases, of the last shared layer that is trained."""
    return next((p for p in reversed(shared) if p.requires_grad and p.ndim > 1), None)
