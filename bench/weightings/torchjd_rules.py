"""Weightings of gradients whose rules are TorchJD's, in a module of their own: it imports slowly."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt
from jaxtyping import Float, Int64
from torch import Tensor
from torchjd import aggregation

from bench.weightings.gradient import GradientWeighting, Rule


@dataclass(frozen=True)
class TorchJDWeighting(GradientWeighting):
    """What weightings with a rule of TorchJD have in common.

    Attributes:
        gradients: which gradients are weighed: those of all shared parameters, or of the features only, as
            `GradientWeighting` has it.
    """

    gradients: Literal["parameters", "features"] = "parameters"


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
class PCGrad(TorchJDWeighting):
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
class NashMTL(TorchJDWeighting):
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
class FairGrad(TorchJDWeighting):
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
