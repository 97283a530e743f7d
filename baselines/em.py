"""EM: error-minimising noise."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from baselines.craft import craft
from baselines.objectives import ErrorMinimising, SurrogateTraining
from baselines.samplewise import Table
from bench.api import CraftContext, Noise, Split


@dataclass(frozen=True)
class EM:
    """Error-minimising noise, sample-wise: noise and surrogate agree that there is nothing left to learn.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, Alg. 1; many tasks by the mean of their losses as in
    Yu et al., ICML 2025

    Departs from the paper: a cap on the rounds (the original may never stop), the surrogate sees x + δ
    clipped to [0, 1] as a victim does, and the δ kept is the one after that clipping.

    Attributes:
        rounds: cap on the alternations of surrogate training and noise improvement.
        surrogate_steps: mini-batches of surrogate training per round (M).
        steps: gradient steps per image and round (T).
        step_size: α of one step, in 1/255.
        stop_error: stop when the surrogate's error on the perturbed images is at most this.
        batch: images per step.
        learning_rate: the surrogate's, SGD.
    """

    rounds: Annotated[int, Ge(1)] = 50
    surrogate_steps: Annotated[int, Ge(1)] = 10
    steps: Annotated[int, Ge(1)] = 20
    step_size: Annotated[float, Gt(0)] = 0.8
    stop_error: Annotated[float, Ge(0)] = 0.01
    batch: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 0.1
    needs_surrogate: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        training = SurrogateTraining(
            steps=self.surrogate_steps,
            batch=self.batch,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            weight_decay=5e-4,
            clip_norm=5.0,
            shuffle=False,
        )
        return craft(
            train,
            context,
            ErrorMinimising(train, context, training, augmented=False, surrogate_first=True),
            Table(train, epsilon=context.epsilon, steps=self.steps, step_size=self.step_size / 255),
            rounds=self.rounds,
            stop_error=self.stop_error,
            batch_size=self.batch,
            shuffle=False,
        )
