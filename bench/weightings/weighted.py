"""A weighted sum of the losses: what most weightings come down to."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.api import Step
from bench.weightings.stateless import Stateless


class Weighted(Stateless, ABC):
    """Shared parameters and heads get the gradient of a weighted sum of the losses.

    A task without a label in the batch has weight 0 and is none of those the others are balanced with.
    """

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted sum and return the weights."""
        losses = step.losses.detach()
        weights = torch.zeros_like(losses)
        weights[step.labelled] = self.weigh(losses[step.labelled], step.labelled)
        (weights * step.losses).sum().backward()
        return weights

    @abstractmethod
    def weigh(self, losses: Float[Tensor, " m"], labelled: Bool[Tensor, " t"]) -> Float[Tensor, " m"]:
        """Return the weights of the m tasks that have a label in the batch, from their losses."""
