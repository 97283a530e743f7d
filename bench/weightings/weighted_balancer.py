"""A weighted sum of the losses: what most weightings come down to."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Step
from bench.weightings.balancers import StatelessBalancer


class WeightedBalancer(StatelessBalancer, ABC):
    """Shared parameters and heads get the gradient of a weighted sum of the losses.

    A task without a label in the batch has weight 0 and is none of those the others are balanced with.
    """

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted sum and return the weights."""
        losses = step.losses.detach()
        weights = torch.zeros_like(losses)
        weights[step.labeled] = self.weigh(losses[step.labeled], step.labeled)
        (weights * step.losses).sum().backward()
        return weights

    @abstractmethod
    def weigh(self, losses: Float[Tensor, " m"], labeled: Bool[Tensor, " t"]) -> Float[Tensor, " m"]:
        """Return the weights of the m tasks that have a label in the batch, from their losses."""
