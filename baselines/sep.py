"""SEP: self-ensemble protection, plain, with feature alignment, and with variance reduction."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from baselines.crafting.loop import Objective, Perturber, craft_noise
from baselines.crafting.noise_table import Table, VarianceReducedTable, warn_of_short_path
from baselines.crafting.objectives import FeatureAlignment, FixedSurrogate
from bench.api import CraftContext, Noise, Norm
from bench.values import Split


@dataclass(frozen=True)
class SEP:
    """Self-ensemble protection: adversarial noise against the snapshots of one training run at once.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005, Alg. 1; many tasks by the mean of their losses as in
    Yu et al., ICML 2025

    Departs from the paper: labels are shifted by half the classes, as there for ten classes; if the run has
    fewer snapshots, all of them are used; the step size is in proportion to ε, there 1/255 at 2/255 too.

    Attributes:
        checkpoints: equidistant snapshots of the clean training run (K), the trained network included.
        steps: gradient steps per image (T).
        step_size: α of one step, in 1/255 at ε = 8/255 and in proportion to ε.
        batch: images per step.
    """

    checkpoints: Annotated[int, Ge(1)] = 30
    steps: Annotated[int, Ge(1)] = 30
    step_size: Annotated[float, Gt(0)] = 1.0
    batch: Annotated[int, Ge(1)] = 512
    needs_surrogate: ClassVar[bool] = True
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 2
    deterministic: ClassVar[bool] = True
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {"checkpoints": 2, "steps": 2, "batch": 20}

    def parameter_warning(self) -> str | None:
        """Return one sentence if the steps cannot cross the budget, else None."""
        return warn_of_short_path(self.steps, self.step_size)

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        return craft_noise(
            train,
            context,
            self._objective(train, context),
            self._perturber(train, context),
            batch_size=self.batch,
        )

    def _objective(self, train: Split, context: CraftContext) -> Objective:
        return FixedSurrogate(train, context, context.surrogate_snapshots(self.checkpoints), view="image")

    def _perturber(self, train: Split, context: CraftContext) -> Perturber:
        step_size = context.scale_strength(self.step_size)
        return Table(train, epsilon=context.epsilon, steps=self.steps, step_size=step_size)


@dataclass(frozen=True)
class FeatureAlignedSEP(SEP):
    """Self-ensemble protection by feature alignment: features move to the mean of the shifted label's.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005 (SEP-FA); many tasks by the mean over them
    """

    dense: ClassVar[bool] = False

    def _objective(self, train: Split, context: CraftContext) -> Objective:
        return FeatureAlignment(train, context, context.surrogate_snapshots(self.checkpoints))


@dataclass(frozen=True)
class VarianceReducedSEP(FeatureAlignedSEP):
    """Self-ensemble protection by feature alignment along variance-reduced gradients.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005, Alg. 1 (SEP-FA-VR); the inner loop's features are those
    of the drawn snapshot as in the paper, in its public code those of the last

    Attributes:
        inner_steps: corrected steps within each step (M).
    """

    checkpoints: Annotated[int, Ge(1)] = 15
    inner_steps: Annotated[int, Ge(1)] = 15
    deterministic: ClassVar[bool] = False
    quick_params: ClassVar[dict[str, object]] = {**SEP.quick_params, "inner_steps": 2}

    def _perturber(self, train: Split, context: CraftContext) -> Perturber:
        return VarianceReducedTable(
            train,
            epsilon=context.epsilon,
            steps=self.steps,
            step_size=context.scale_strength(self.step_size),
            inner_steps=self.inner_steps,
        )
