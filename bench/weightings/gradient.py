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
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int64
from torch import Tensor
from torchjd import aggregation

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


def _fair_weights(products: Float[Tensor, "t t"], alpha: float) -> Float[Tensor, " t"]:
    """Return the weights w > 0 with products · w = w^(-1/alpha).

    The solver looks for multiples of the weight each gradient would have alone, since it stops early if the
    gradients' norms differ much.
    """
    alone = products.diagonal().pow(-alpha / (1 + alpha))
    relative = alone[:, None].pow(1 / alpha) * products * alone
    multiples: Tensor = aggregation.FairGradWeighting(alpha)(relative)
    return alone * multiples


@dataclass(frozen=True)
class PCGrad(GradientWeighting):
    """PCGrad (gradient surgery): each gradient is freed from what conflicts with others, in random order.

    The sum of the projected gradients is used.

    Source: Yu et al., NeurIPS 2020, arXiv:2001.06782, Alg. 1
    """

    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, which draws from torch's global generator."""
        weigh = aggregation.PCGradWeighting()
        return lambda products, _: weigh(products)


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
    """Return how much of each unit gradient every turned one has; update the usual cosines in place."""
    amounts = np.eye(len(cosines))
    for task, (turned, goals) in enumerate(zip(amounts, usual, strict=True)):
        others = np.delete(np.arange(len(cosines)), task)
        for other in others[torch.randperm(len(others)).numpy()]:
            length = np.sqrt(max(0.0, turned @ cosines @ turned))
            if length <= SHORTEST:
                break  # it was turned away: nothing of it is left
            now, goal = np.clip(turned @ cosines[other] / length, -1, 1), goals[other]
            if now < goal:
                across = max(SHORTEST, np.sqrt(1 - goal**2))
                turned[other] += length * (goal * np.sqrt(1 - now**2) / across - now)
            goals[other] += decay * (now - goal)
    return amounts


@dataclass(frozen=True)
class NashMTL(GradientWeighting):
    """Nash-MTL: the step on which tasks would agree that bargain for it, each asking for its relative gain.

    With G the gradients, the weights solve G Gᵀ w = ‖G Gᵀ‖ / w; steps longer than ``max_norm`` are shortened.
    Gradients that cancel have no such weights; then the least-squares solver's last ones are used.

    Source: Navon et al., ICML 2022, arXiv:2202.01017, Alg. 1; scale and ``max_norm``: their code

    Departs from the paper: the equation is solved as it stands, which TorchJD does for FairGrad with α = 1,
    not by a sequence of convex programs (TorchJD's NashMTL), which misses the solution where norms differ
    much; the weights are found anew in every step; heads' gradients are not weighted, which their code does.

    Attributes:
        max_norm: of the gradient of the shared parameters.
    """

    max_norm: Annotated[float, Gt(0)] = 1.0
    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return the rule."""

        def weigh(products: Float[Tensor, "m m"], _: Int64[Tensor, " m"]) -> Float[Tensor, " m"]:
            weights: Tensor = _fair_weights(products, 1.0) * products.norm().sqrt()
            length = (weights @ products @ weights).clamp(min=self.max_norm**2).sqrt()
            return weights * (self.max_norm / length)

        return weigh


@dataclass(frozen=True)
class FairGrad(GradientWeighting):
    """FairGrad: α-fair shares of the step; with G the gradients, the weights solve G Gᵀ w = w^(-1/α).

    With α = 1 the step's length is the square root of the number of tasks. Gradients that cancel have no such
    weights; then the least-squares solver's last ones are used.

    Source: Ban and Ji, ICML 2024, arXiv:2402.15638, Alg. 1. The authors' code shortens the step to length 1;
    that of MTL-UE weights the heads' gradients as well

    Attributes:
        alpha: from equal weights (0) to the most even progress (infinity); 1 is proportional fairness.
    """

    alpha: Annotated[float, Gt(0)] = 1.0
    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, a least-squares solver."""
        return lambda products, _: _fair_weights(products, self.alpha)
