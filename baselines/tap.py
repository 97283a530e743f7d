"""TAP: targeted adversarial poisoning, and its untargeted variant."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from baselines.crafting.loop import craft_noise
from baselines.crafting.noise_table import Table, warn_of_short_path
from baselines.crafting.objectives import Aim, FixedSurrogate
from bench.api import CraftContext, Noise, Norm
from bench.values import Split


@dataclass(frozen=True)
class TAP:
    """Targeted adversarial poisoning, sample-wise: features of another class under the true label.

    Source: Fowl et al., NeurIPS 2021, arXiv:2106.10807, section 4; many tasks by the mean of their losses as
    in Yu et al., ICML 2025

    Departs from the paper: labels are shifted by half the classes (Yu et al.) instead of by one, which for
    two classes is the same, and of several starts the best is kept batch by batch, not for the whole set.

    Attributes:
        steps: gradient steps per image.
        step_size: α of one step, in 1/255 at ε = 8/255 and in proportion to ε.
        restarts: random starts, of which the one with the lowest loss is kept.
        batch: images per step.
    """

    steps: Annotated[int, Ge(1)] = 250
    step_size: Annotated[float, Gt(0)] = 0.4
    restarts: Annotated[int, Ge(1)] = 8
    batch: Annotated[int, Ge(1)] = 512
    aim: ClassVar[Aim] = "shifted"
    needs_surrogate: ClassVar[bool] = True
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 3
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {"steps": 2, "step_size": 1.6, "batch": 20, "restarts": 2}

    def parameter_warning(self) -> str | None:
        """Return one sentence if the steps cannot cross the budget, else None."""
        return warn_of_short_path(self.steps, self.step_size)

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        return craft_noise(
            train,
            context,
            FixedSurrogate(train, context, context.surrogate_snapshots(1), view="crop", aim=self.aim),
            Table(
                train,
                epsilon=context.epsilon,
                steps=self.steps,
                step_size=context.scale_strength(self.step_size),
                start="normal",
                restarts=self.restarts,
            ),
            batch_size=self.batch,
        )


@dataclass(frozen=True)
class UntargetedTAP(TAP):
    """Adversarial poisoning without a target: it only increases the loss of the true label.

    Source: Fowl et al., NeurIPS 2021, arXiv:2106.10807, section 4, untargeted; its authors call it brittle

    Departs from the paper: of several starts the best is kept batch by batch, not for the whole set.
    """

    aim: ClassVar[Aim] = "away"
