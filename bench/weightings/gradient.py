"""Weightings of the tasks' gradients: an adapter to TorchJD, which has the rules.

Every rule maps the inner products of the tasks' gradients to one weight per gradient. The shared parameters
get the weighted sum, each head its own task's gradient, unweighted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor
from torchjd import aggregation

from bench.api import Balancer, Step, Task
from bench.weightings.balancers import StatelessBalancer
from bench.weightings.task_gradients import (
    backward_features,
    feature_gradients,
    parameter_gradients,
    set_parameter_gradient,
)

Rule = Callable[[Float[Tensor, "t t"]], Float[Tensor, " t"]]
"""Maps the inner products of the gradients to their weights."""


@dataclass(frozen=True)
class GradientWeighting(ABC):
    """What all weightings of gradients have in common.

    Attributes:
        gradients: which gradients are weighed: those of all shared parameters, with one backward pass per
            task; or those of the features only, with one pass in all, an approximation some papers make.
    """

    gradients: Literal["parameters", "features"] = "parameters"

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a balancer, which holds the memory of rules that have one."""
        return _GradientBalancer(self.rule, self.gradients == "features")

    @abstractmethod
    def rule(self, count: int) -> Rule:
        """Return the rule for ``count`` gradients, with an empty memory."""


class _GradientBalancer(StatelessBalancer):
    """Weighs the gradients that are not zero; those of tasks without a label are.

    Every set of tasks that are weighed together has its own rule.
    """

    def __init__(self, rule: Callable[[int], Rule], features: bool) -> None:
        self._rule, self._features = rule, features
        self._rules: dict[tuple[int, ...], Rule] = {}

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate the weighted gradients into the shared parameters; return the weights."""
        if self._features:
            gradients = feature_gradients(step)
            weights = self._weigh(gradients.flatten(1))
            backward_features(step, torch.tensordot(weights, gradients, 1))
        else:
            gradients = parameter_gradients(step)
            weights = self._weigh(gradients)
            set_parameter_gradient(step, weights @ gradients)
        return weights

    def _weigh(self, gradients: Float[Tensor, "t p"]) -> Float[Tensor, " t"]:
        products = (gradients @ gradients.T).cpu()
        members = products.diagonal().nonzero()[:, 0]
        weights = torch.zeros(len(gradients))
        if products.isfinite().all() and len(members):
            together = tuple(members.tolist())
            if together not in self._rules:
                self._rules[together] = self._rule(len(together))
            weights[members] = self._rules[together](products[members][:, members]).to(weights.dtype)
        else:  # no gradient, or a diverged training, which the network shows
            weights[:] = 1 / len(weights)
        return weights.to(gradients.device)


def _scale_to_unit(products: Float[Tensor, "t t"]) -> Float[Tensor, "t t"]:
    """Scale gradients so that their mean squared norm is 1: libraries' thresholds are absolute."""
    return products / products.diagonal().mean()


def _factorize(products: Float[Tensor, "t t"]) -> Float[Tensor, "t r"]:
    """Return vectors with the same inner products, one per gradient, of as few dimensions as possible."""
    values, vectors = torch.linalg.eigh(products)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


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
class AlignedMTL(GradientWeighting):
    """Aligned-MTL: the sum of gradients made orthogonal and as long as the shortest principal component.

    Source: Senushkin et al., CVPR 2023, arXiv:2305.19000, Alg. 1; the sum, not the mean: public code of
    Yu et al., ICML 2025 (MTL-UE)
    """

    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, with an importance of 1 for every task."""
        return aggregation.AlignedMTLWeighting(torch.ones(count))


@dataclass(frozen=True)
class MGDA(GradientWeighting):
    """Multiple gradient descent: the shortest convex combination of the gradients.

    With gradients of the features it is their MGDA-UB. The solver's limits leave the step a few percent
    longer than the shortest.

    Source: Sener and Koltun, NeurIPS 2018, arXiv:1810.04650, Alg. 2. The gradients are not normalized, which
    their code does on some datasets
    """

    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, a Frank-Wolfe solver, with the limits of the authors' code."""
        return aggregation.MGDAWeighting(epsilon=1e-5, max_iters=250)


@dataclass(frozen=True)
class PCGrad(GradientWeighting):
    """PCGrad (gradient surgery): each gradient is freed from what conflicts with others, in random order.

    The sum of the projected gradients is used.

    Source: Yu et al., NeurIPS 2020, arXiv:2001.06782, Alg. 1
    """

    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, which draws from torch's global generator."""
        return aggregation.PCGradWeighting()


@dataclass(frozen=True)
class GradVac(GradientWeighting):
    """Gradient vaccine: gradients less similar than is usual for two tasks are turned toward each other.

    What is usual is a moving average of the cosine. The sum of the turned gradients is used.

    Source: Wang et al., ICLR 2021, arXiv:2010.05874, Alg. 1

    Departs from the paper: cosines are those of all shared parameters, not of each layer.

    Attributes:
        decay: how much of the moving average is new in every step, the paper's β; LibMTL's default is 0.5.
    """

    decay: Annotated[float, Ge(0), Le(1)] = 0.01
    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, which draws from torch's global generator."""
        weigh = aggregation.GradVacWeighting(self.decay)
        return lambda products: weigh(_scale_to_unit(products))


@dataclass(frozen=True)
class CAGrad(GradientWeighting):
    """Conflict-averse gradient descent: near the mean gradient, the step that helps the worst task most.

    Source: Liu et al., NeurIPS 2021, arXiv:2110.14048, Alg. 1. The step is not divided by 1 + c², which the
    authors' code does

    Attributes:
        radius: how far the step may be from the mean gradient, relative to its norm: the paper's c.
    """

    radius: Annotated[float, Ge(0), Le(1)] = 0.4
    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, which solves a cone program."""
        weigh = aggregation.CAGradWeighting(self.radius)
        return lambda products: weigh(_scale_to_unit(products))


@dataclass(frozen=True)
class NashMTL(GradientWeighting):
    """Nash-MTL: the step on which tasks would agree that bargain for it, each asking for its relative gain.

    With G the gradients, the weights solve G Gᵀ w = ‖G Gᵀ‖ / w; steps longer than ``max_norm`` are shortened.

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

        def weigh(products: Float[Tensor, "t t"]) -> Float[Tensor, " t"]:
            weights: Tensor = _fair_weights(products, 1.0) * products.norm().sqrt()
            length = (weights @ products @ weights).clamp(min=self.max_norm**2).sqrt()
            return weights * (self.max_norm / length)

        return weigh


@dataclass(frozen=True)
class ImpartialGradients(GradientWeighting):
    """Impartial multi-task learning's gradient balance (IMTL-G): a step as far along each task's gradient.

    The weights sum to 1 and may be negative. As in the paper, gradients are those of the features.

    Source: Liu et al., ICLR 2021, "Toward Impartial Multi-task Learning"; for dependent gradients: Quinton
    and Rey, arXiv:2406.16232
    """

    gradients: Literal["parameters", "features"] = "features"
    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, in closed form."""
        return aggregation.IMTLGWeighting()


@dataclass(frozen=True)
class FairGrad(GradientWeighting):
    """FairGrad: α-fair shares of the step; with G the gradients, the weights solve G Gᵀ w = w^(-1/α).

    With α = 1 the step's length is the square root of the number of tasks.

    Source: Ban and Ji, ICML 2024, arXiv:2402.15638, Alg. 1. The authors' code shortens the step to length 1;
    that of MTL-UE weights the heads' gradients as well

    Attributes:
        alpha: from equal weights (0) to the most even progress (infinity); 1 is proportional fairness.
    """

    alpha: Annotated[float, Gt(0)] = 1.0
    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, a least-squares solver."""
        return lambda products: _fair_weights(products, self.alpha)


@dataclass(frozen=True)
class ConFIG(GradientWeighting):
    """Conflict-free inverse gradients: the direction with the same cosine to every gradient.

    The step is as long as the sum of the gradients' projections on it.

    Source: Liu et al., ICLR 2025, arXiv:2408.11104, Eq. 2
    """

    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, on vectors of few dimensions: turning gradients turns the step along."""

        def weigh(products: Float[Tensor, "t t"]) -> Float[Tensor, " t"]:
            factor = _factorize(products)
            step: Tensor = aggregation.ConFIG()(factor)
            weights: Tensor = torch.linalg.pinv(factor.T) @ step
            return weights

        return weigh


@dataclass(frozen=True)
class UPGrad(GradientWeighting):
    """UPGrad: the mean of the gradients, each first projected to where no task gets worse.

    Source: Quinton and Rey, 2024, arXiv:2406.16232
    """

    version: ClassVar[int] = 1

    def rule(self, count: int) -> Rule:
        """Return TorchJD's rule, a quadratic program per task."""
        weigh = aggregation.UPGradWeighting()
        return lambda products: weigh(_scale_to_unit(products))
