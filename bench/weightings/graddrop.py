"""Gradient sign dropout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.task_gradients import backward_features, feature_gradients


@dataclass(frozen=True)
class GradDrop:
    """Gradient sign dropout: at every feature only gradients of one sign pass, drawn by how much each has.

    It acts on the gradients of the shared features; a feature's sign is the same for the whole batch. Heads
    get their own task's gradient. A task's weight is the share of its features that passed. The library of
    the other gradient weightings has only the draw, not the layer around it.

    Source: Chen et al., NeurIPS 2020, arXiv:2010.06808, Alg. 1

    Attributes:
        leak: share of each gradient that passes in any case.
    """

    leak: Annotated[float, Ge(0), Le(1)] = 0.0
    version: ClassVar[int] = 1
    needs_shared_features: ClassVar[bool] = True

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return the balancer, which draws from torch's global generator."""
        return _GradDropBalancer(self.leak)


class _GradDropBalancer(StatelessBalancer):
    def __init__(self, leak: float) -> None:
        self._leak = leak

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate what passes, and return the share of each task's features that does."""
        gradients = feature_gradients(step)
        pushes = (gradients * step.features.detach().sign()).sum(1)
        passed = self._leak + (1 - self._leak) * _draw_passing(pushes)
        backward_features(step, (gradients * passed[:, None]).sum(0))
        return passed.flatten(1).mean(1)


def _draw_passing(pushes: Float[Tensor, "t d ..."]) -> Float[Tensor, "t d ..."]:
    """Return 1 where a task's push has the sign that was drawn for the feature, else 0."""
    purity = (1 + pushes.sum(0) / pushes.abs().sum(0)) / 2
    upward = purity > torch.rand_like(purity)
    return torch.where(upward, pushes > 0, pushes < 0).to(pushes.dtype)
