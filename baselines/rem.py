"""REM: robust error-minimizing noise."""

from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from baselines.crafting.loop import craft_noise
from baselines.crafting.objectives import RobustErrorMinimizing
from baselines.crafting.surrogate_training import SurrogateTraining
from baselines.crafting.table import Table
from bench.api import CraftContext, Noise
from bench.values import Split


@dataclass(frozen=True)
class REM:
    """Robust error-minimizing noise: easy labels even for a victim that is trained adversarially.

    Noise is improved on a batch from a fresh random start, then the surrogate takes one step on adversarial
    examples of that batch; once its steps are used up, a last pass makes the noise that is kept.

    Source: Fu et al., ICLR 2022, arXiv:2203.14533, Alg. 1; many tasks by the mean of their losses

    Attributes:
        iterations: steps of the surrogate, its learning rate divided by ten at 40 % and at 80 % of them.
        steps: gradient steps per image.
        step_size: of one step, in 1/255.
        samples: random crops and flips per step, whose losses are averaged.
        radius: of the adversary the noise must stand (ρ_a), in 1/255.
        attack_steps: the adversary's steps.
        attack_step_size: of one of these, in 1/255.
        batch: images per step.
        learning_rate: the surrogate's, SGD.
    """

    iterations: Annotated[int, Ge(1)] = 5000
    steps: Annotated[int, Ge(1)] = 10
    step_size: Annotated[float, Gt(0)] = 1.6
    samples: Annotated[int, Ge(1)] = 5
    radius: Annotated[float, Ge(0)] = 4.0
    attack_steps: Annotated[int, Ge(0)] = 10
    attack_step_size: Annotated[float, Gt(0)] = 0.8
    batch: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 0.1
    needs_surrogate: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {
        "iterations": 3,
        "steps": 2,
        "samples": 2,
        "attack_steps": 1,
        "batch": 20,
    }

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        training = SurrogateTraining(
            steps=self.iterations,
            batch=self.batch,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            weight_decay=5e-4,
            clip_norm=None,
            shuffle=True,
            milestones=(round(0.4 * self.iterations), round(0.8 * self.iterations)),
        )
        objective = RobustErrorMinimizing(
            context,
            training,
            radius=self.radius / 255,
            attack_steps=self.attack_steps,
            attack_step_size=self.attack_step_size / 255,
            samples=self.samples,
        )
        table = Table(
            train,
            epsilon=context.epsilon,
            steps=self.steps,
            step_size=self.step_size / 255,
            start="uniform",
        )
        training_passes = ceil(self.iterations / ceil(len(train) / self.batch))
        return craft_noise(
            train,
            context,
            objective,
            table,
            rounds=training_passes + 1,
            stop_error=None,
            batch_size=self.batch,
            shuffle=True,
        )
