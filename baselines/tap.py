"""TAP: targeted adversarial poisoning."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from baselines.craft import craft
from baselines.objectives import Targeted
from baselines.samplewise import Table
from bench.api import CraftContext, Noise, Split


@dataclass(frozen=True)
class TAP:
    """Targeted adversarial poisoning, sample-wise: features of another class under the true label.

    Source: Fowl et al., NeurIPS 2021, arXiv:2106.10807, section 4; many tasks by the mean of their losses as
    in Yu et al., ICML 2025

    Departs from the paper: one start from zero instead of the best of eight random ones, and labels are
    shifted by half the classes (Yu et al.) instead of by one.

    Attributes:
        steps: gradient steps per image.
        step_size: α of one step, in 1/255.
        batch: images per step.
    """

    steps: Annotated[int, Ge(1)] = 250
    step_size: Annotated[float, Gt(0)] = 0.4
    batch: Annotated[int, Ge(1)] = 512
    needs_surrogate: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        return craft(
            train,
            context,
            Targeted(context),
            Table(train, epsilon=context.epsilon, steps=self.steps, step_size=self.step_size / 255),
            rounds=1,
            stop_error=0.0,
            batch_size=self.batch,
            shuffle=False,
        )
