"""Bases of balancers: one without state, and one for weighted sums of the losses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from bench.api import Step


class StatelessBalancer:
    """A balancer without parameters and without memory of past steps and epochs."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return none."""
        return ()

    def finish_step(self, step: Step) -> None:
        """Do nothing."""

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Do nothing."""


class WeightedBalancer(StatelessBalancer, ABC):
    """A balancer that back-propagates a weighted sum of the losses.

    A task without a label in the batch has weight 0, and the other tasks are balanced without it.
    """

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted sum and return the weights."""
        weights = self.weigh(step.losses.detach(), step.labeled).where(step.labeled, 0)
        (weights * step.losses).sum().backward()
        return weights

    @abstractmethod
    def weigh(self, losses: Float[Tensor, " t"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Return the weights of the tasks that have a label in the batch, anything for the others.

        Masks in place of indices by ``labeled`` do not make a GPU wait.
        """
