"""Weightings of the tasks' gradients: the adapter, and rules that see the gradients as they are.

Every rule maps the inner products of the tasks' gradients to one weight per gradient. The shared parameters
get the weighted sum, each head its own task's gradient, unweighted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int64
from torch import Tensor

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.task_gradients import (
    backward_features,
    feature_gradients,
    inner_products,
    parameter_gradients,
    set_parameter_gradient,
)

Rule = Callable[[Float[Tensor, "m m"], Int64[Tensor, " m"]], Float[Tensor, " m"]]
"""Maps the inner products of m gradients, and the numbers of their tasks, to their weights.

Weights are NaN if the rule has no answer.
"""

SHORTEST = 1e-7
"""Length, relative to a gradient, below which what is left of it after turning is rounding alone."""


@dataclass(frozen=True)
class GradientWeighting(ABC):
    """What all weightings of gradients have in common.

    Attributes:
        gradients: which gradients are weighed: those of all shared parameters, with one backward pass per
            task; or those of the features only, with one pass in all, an approximation some papers make.
        double: the rule gets inner products in double precision.
    """

    gradients: Literal["parameters", "features"] = "parameters"
    double: ClassVar[bool] = False

    @property
    def needs_shared_features(self) -> bool:
        """Whether it compares gradients of the features."""
        return self.gradients == "features"

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer, which holds the memory of rules that have one."""
        return _GradientBalancer(self.rule(len(tasks)), self.gradients == "features", self.double)

    @abstractmethod
    def rule(self, count: int) -> Rule:
        """Return the rule for the gradients of up to ``count`` tasks, with an empty memory."""


class _GradientBalancer(StatelessBalancer):
    """Weighs the gradients that are not zero; those of tasks without a label are."""

    def __init__(self, rule: Rule, features: bool, double: bool) -> None:
        self._rule, self._features, self._double = rule, features, double

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted gradients into the shared parameters; return the weights.

        In a step for which the rule has no answer the weights are NaN, and these parameters get zeros.
        """
        if self._features:
            gradients = feature_gradients(step)
            weights = self._weigh(gradients.flatten(1))
            backward_features(step, torch.tensordot(weights.nan_to_num(0), gradients, 1))
        else:
            gradients = parameter_gradients(step)
            weights = self._weigh(gradients)
            set_parameter_gradient(step, weights.nan_to_num(0) @ gradients)
        return weights

    def _weigh(self, gradients: Float[Tensor, "t p"]) -> Float[Tensor, " t"]:
        products = inner_products(gradients, self._double)
        members = products.diagonal().nonzero()[:, 0]
        weights = torch.zeros(len(gradients))
        if products.isfinite().all() and len(members):
            answer = self._rule(products[members][:, members], members).to(weights.dtype)
            weights[members] = answer if answer.isfinite().all() else torch.nan
        else:  # no gradient, or a diverged training, which the network shows
            weights[:] = 1 / len(weights)
        return weights.to(gradients.device)


@dataclass(frozen=True)
class GradVac(GradientWeighting):
    """Gradient vaccine: gradients less similar than is usual for two tasks are turned toward each other.

    What is usual is a moving average of the cosine over the steps in which both tasks have a gradient. The
    sum of the turned gradients is used.

    Source: Wang et al., ICLR 2021, arXiv:2010.05874, Alg. 1

    Departs from the paper: cosines are those of all shared parameters, not of each layer.

    Attributes:
        decay: how much of the moving average is new in every step, the paper's β; LibMTL's default is 0.5.
    """

    decay: Annotated[float, Ge(0), Le(1)] = 0.01
    double: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def rule(self, count: int) -> Rule:
        """Return the rule, which draws from torch's global generator and remembers each pair's cosine."""
        usual = np.zeros((count, count))

        def weigh(products: Float[Tensor, "m m"], members: Int64[Tensor, " m"]) -> Float[Tensor, " m"]:
            norms = products.diagonal().sqrt().numpy()
            pairs = np.ix_(members.numpy(), members.numpy())
            remembered = usual[pairs]
            amounts = _vaccinate(products.numpy() / np.outer(norms, norms), remembered, self.decay)
            usual[pairs] = remembered
            return torch.from_numpy(norms @ amounts / norms)

        return weigh


def _vaccinate(
    cosines: Float[np.ndarray, "m m"], usual: Float[np.ndarray, "m m"], decay: float
) -> Float[np.ndarray, "m m"]:
    """Return how much of each unit gradient every turned one has; update the usual cosines in place.

    Every gradient is turned toward the others in an order of its own, all gradients at the same time.
    """
    tasks, amounts = np.arange(len(cosines)), np.eye(len(cosines))
    orders = [np.delete(tasks, task)[torch.randperm(len(tasks) - 1).numpy()] for task in tasks]
    left = np.ones(len(tasks), dtype=bool)
    for others in np.stack(orders, axis=1):
        lengths = np.sqrt(np.maximum(0.0, ((amounts @ cosines) * amounts).sum(1)))
        left &= lengths > SHORTEST  # else it was turned away: nothing of it is left
        reached = (amounts * cosines[others]).sum(1) / np.where(left, lengths, 1.0)
        now, goals = np.clip(reached, -1, 1), usual[tasks, others]
        across = np.maximum(SHORTEST, np.sqrt(1 - goals**2))
        turn = lengths * (goals * np.sqrt(1 - now**2) / across - now)
        amounts[tasks, others] += np.where(left & (now < goals), turn, 0.0)
        usual[tasks, others] += np.where(left, decay * (now - goals), 0.0)
    return amounts
