"""Weightings of gradients that are solved on gradients of length 1, in double precision.

The gradient of a task that is learned through a shortcut is soon thousands of times shorter than the others.
A solver's tolerances then lose this task. On unit gradients they mean the same for every task. Each rule here
is written for unit gradients such that its step is exactly that of its paper for the gradients as they are.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int64
from scipy.optimize import nnls
from torch import Tensor

from bench.weightings.gradient import GradientWeighting, Rule

Units = Float[np.ndarray, "m r"]
"""Vectors with the same inner products as the unit gradients, of as few dimensions as possible."""

PerTask = Float[np.ndarray, " m"]
"""The norms of the gradients, or how much of each unit gradient a step has."""

PRECISION = float(np.finfo(np.float32).eps)
"""Relative precision of a gradient: unit gradients that differ by less count as the same."""

TOLERANCE = 1e-12
"""Relative size below which a result of double precision is rounding alone."""

PASSES = 100
"""Limit of the passes of a solver, of the order of ten times what it needs."""


@dataclass(frozen=True)
class UnitGradientWeighting(GradientWeighting):
    """What weightings that are solved on unit gradients have in common.

    Attributes:
        gradients: which gradients are weighed: those of all shared parameters, or of the features only, as
            `GradientWeighting` has it.
    """

    gradients: Literal["parameters", "features"] = "parameters"
    double: ClassVar[bool] = True

    def rule(self, count: int) -> Rule:
        """Return the rule, which has no memory."""

        def weigh(products: Float[Tensor, "m m"], _: Int64[Tensor, " m"]) -> Float[Tensor, " m"]:
            norms = products.diagonal().sqrt().numpy()
            units = _factorize(products.numpy() / np.outer(norms, norms))
            return torch.from_numpy(self.solve(units, norms) / norms)

        return weigh

    @abstractmethod
    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return how much of each unit gradient the step has; NaN if the rule has no answer."""


def _factorize(cosines: Float[np.ndarray, "m m"]) -> Units:
    """Return vectors with these inner products."""
    values, vectors = np.linalg.eigh(cosines)
    kept = values > len(values) * PRECISION**2
    units: Units = vectors[:, kept] * np.sqrt(values[kept])
    return units


def _nonnegative_amounts(vectors: Units, target: Float[np.ndarray, " r"]) -> PerTask:
    """Return the amounts of the vectors, none negative, whose sum is nearest to the target."""
    amounts: PerTask = nnls(vectors.T, target, maxiter=PASSES * len(vectors))[0]
    return amounts


def _shortest_reaching(units: Units, least: PerTask) -> PerTask:
    """Return amounts, none negative, of the shortest x with ``units @ x >= least``.

    Their sum is ``(1 - least @ amounts) * x``. It is 0 if there is no such x.

    Source: Lawson and Hanson, "Solving Least Squares Problems", chapter 23, "LDP"
    """
    target = np.append(np.zeros(units.shape[1]), 1.0)
    return _nonnegative_amounts(np.column_stack([units, least]), target)


def _equally_reaching(units: Units) -> PerTask:
    """Return the amounts of the shortest x with ``units @ x`` all 1, or as near to it as possible.

    They are NaN if the nearest is 0.
    """
    inverse = np.linalg.pinv(units)
    x = inverse.sum(1)
    amounts: PerTask = x @ inverse
    amounts *= 1 if (units @ x).sum() > TOLERANCE * len(units) else np.nan
    return amounts


@dataclass(frozen=True)
class MGDA(UnitGradientWeighting):
    """Multiple gradient descent: the shortest convex combination of the gradients.

    With gradients of the features it is their MGDA-UB.

    Source: Sener and Koltun, NeurIPS 2018, arXiv:1810.04650, Eq. 3. The gradients are not normalized, which
    their code does on some datasets

    Departs from the paper: an exact solver finds the combination. Their Frank-Wolfe solver (Alg. 2) stops
    early if there are many tasks, or if the gradients' norms differ much.
    """

    version: ClassVar[int] = 2

    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return the amounts of the shortest step that goes as far along every gradient, or farther."""
        amounts = _shortest_reaching(units, norms.min() / norms)
        combination: PerTask = amounts / (amounts / norms).sum()
        return combination


@dataclass(frozen=True)
class CAGrad(UnitGradientWeighting):
    """Conflict-averse gradient descent: near the mean gradient, the step that helps the worst task most.

    If no step near the mean helps all tasks, several steps may be best; then it is the one nearest to the
    mean.

    Source: Liu et al., NeurIPS 2021, arXiv:2110.14048, Alg. 1. The step is not divided by 1 + c², which the
    authors' code does

    Attributes:
        radius: how far the step may be from the mean gradient, relative to its norm: the paper's c.
    """

    radius: Annotated[float, Ge(0), Le(1)] = 0.4
    version: ClassVar[int] = 2

    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return the amounts in the mean gradient and in the correction from there to the best step.

        The gain of the worst task is lowered from an upper bound to where the nearest step that gives every
        task as much is within the radius. Every pass takes the bound that the paper's dual problem (Eq. 4)
        has at the amounts of the pass before: Dinkelbach's method, which needs a handful of passes.
        """
        mean = norms @ units / len(norms)
        size = np.linalg.norm(mean)
        amounts: PerTask = norms / len(norms)
        if size <= TOLERANCE * norms.max():
            return amounts  # the radius is 0, and so is the step
        along, shares = units @ mean / size, norms.min() / norms
        gain, correction, scale = ((along + self.radius) / shares).min(), np.zeros_like(norms), 1.0
        for _ in range(PASSES):
            least = gain * shares - along
            correction = _shortest_reaching(units, least)
            scale, moved = 1 - least @ correction, np.linalg.norm(correction @ units)
            reached = scale > TOLERANCE  # else no step gives all tasks so much
            if reached and moved <= self.radius * scale + TOLERANCE:
                break
            bound = (correction @ along + self.radius * moved) / (correction @ shares)
            gain = bound if reached else min(bound, 0.0)
        amounts += size * correction / scale
        return amounts


@dataclass(frozen=True)
class ImpartialGradients(UnitGradientWeighting):
    """Impartial multi-task learning's gradient balance (IMTL-G): a step as far along each task's gradient.

    The weights sum to 1 and may be negative. As in the paper, gradients are those of the features. There is
    no answer if no such step exists but 0, as for two opposite gradients, or if its weights sum to 0.

    Source: Liu et al., ICLR 2021, "Toward Impartial Multi-task Learning"; the pseudo-inverse for dependent
    gradients: Quinton and Rey, arXiv:2406.16232, here of unit gradients, the limit of independent ones
    """

    gradients: Literal["parameters", "features"] = "features"
    version: ClassVar[int] = 2

    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return the amounts of a step that is as long along every gradient."""
        amounts = _equally_reaching(units)
        weights = amounts / norms
        amounts *= 1 / weights.sum() if abs(weights.sum()) > TOLERANCE * abs(weights).sum() else np.nan
        return amounts


@dataclass(frozen=True)
class AlignedMTL(UnitGradientWeighting):
    """Aligned-MTL: the sum of gradients made orthogonal and as long as the shortest principal component.

    Source: Senushkin et al., CVPR 2023, arXiv:2305.19000, Alg. 1; the sum, not the mean: public code of
    Yu et al., ICML 2025 (MTL-UE)
    """

    version: ClassVar[int] = 2

    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return the amounts in the sum of the aligned gradients."""
        components, sizes, _ = np.linalg.svd(norms[:, None] * units, full_matrices=False)
        amounts: PerTask = sizes[-1] * norms * (components @ (components.sum(0) / sizes))
        return amounts


@dataclass(frozen=True)
class ConFIG(UnitGradientWeighting):
    """Conflict-free inverse gradients: the direction with the same cosine to every gradient.

    The step is as long as the sum of the gradients' projections on it. There is no answer if the gradients,
    scaled to one length, sum to 0.

    Source: Liu et al., ICLR 2025, arXiv:2408.11104, Eq. 2
    """

    version: ClassVar[int] = 2

    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return the amounts of a step that is as long along every gradient."""
        amounts = _equally_reaching(units)
        step = amounts @ units
        amounts *= norms @ (units @ step) / (step @ step)
        return amounts


@dataclass(frozen=True)
class UPGrad(UnitGradientWeighting):
    """UPGrad: the mean of the gradients, each first projected to where no task gets worse.

    Source: Quinton and Rey, 2024, arXiv:2406.16232
    """

    version: ClassVar[int] = 2

    def solve(self, units: Units, norms: PerTask) -> PerTask:
        """Return the amounts: a projected unit gradient is the gradient and no negative amount of others."""
        added = np.stack([_nonnegative_amounts(units, -unit) for unit in units])
        amounts: PerTask = (norms + norms @ added) / len(norms)
        return amounts
