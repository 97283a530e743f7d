"""EM: error-minimizing noise, one δ per image or one pattern per class."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le

from baselines.crafting.classwise import ClasswiseTable
from baselines.crafting.lift import Lift, lift_classwise
from baselines.crafting.loop import craft_noise
from baselines.crafting.noise_table import Table, warn_of_short_path
from baselines.crafting.objectives import ErrorMinimizing
from baselines.crafting.surrogate_training import SurrogateTraining
from bench.api import CraftContext, Noise, Norm
from bench.tasks.classification import require_classification
from bench.training.loaders import select_rows
from bench.values import Split


def _surrogate_training(steps: int, batch: int, learning_rate: float) -> SurrogateTraining:
    return SurrogateTraining(
        steps=steps,
        batch=batch,
        optimizer="sgd",
        learning_rate=learning_rate,
        weight_decay=5e-4,
        clip_norm=5.0,
        shuffle=False,
    )


@dataclass(frozen=True)
class EM:
    """Error-minimizing noise, sample-wise: noise and surrogate minimize the same loss.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, Alg. 1; many tasks by the mean of their losses as in
    Yu et al., ICML 2025

    Departs from the paper: a cap on the rounds (the original may never stop), the surrogate sees x + δ
    clipped to [0, 1] as a victim does, and the δ kept is the one after that clipping.

    Attributes:
        rounds: cap on the alternations of surrogate training and noise improvement.
        surrogate_steps: mini-batches of surrogate training per round (M).
        steps: gradient steps per image and round (T).
        step_size: α of one step, in 1/255 at ε = 8/255 and in proportion to ε.
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
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {
        "rounds": 2,
        "surrogate_steps": 2,
        "steps": 2,
        "step_size": 1.6,
        "batch": 20,
    }

    def parameter_warning(self) -> str | None:
        """Return one sentence if the steps cannot cross the budget, else None."""
        return warn_of_short_path(self.rounds * self.steps, self.step_size)

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        training = _surrogate_training(self.surrogate_steps, self.batch, self.learning_rate)
        step_size = context.scale_strength(self.step_size)
        return craft_noise(
            train,
            context,
            ErrorMinimizing(train, context, training, view="image", surrogate_first=True),
            Table(train, epsilon=context.epsilon, steps=self.steps, step_size=step_size),
            batch_size=self.batch,
            rounds=self.rounds,
            stop_error=self.stop_error,
        )


@dataclass(frozen=True)
class ClasswiseEM:
    """Error-minimizing noise, class-wise: one pattern for every class, crafted on some of the images.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, section 3.3, class-wise noise; several tasks' patterns
    share an image as in Yu et al., ICML 2025

    Departs from the paper: a cap on the rounds; the images the noise is crafted on are drawn at random, not
    class by class, since an image has one class per task.

    Attributes:
        rounds: cap on the alternations of surrogate training and noise improvement.
        surrogate_steps: mini-batches of surrogate training per round (M).
        step_size: α of the one step per batch, in 1/255 at ε = 8/255 and in proportion to ε.
        stop_error: stop when the surrogate's error on the perturbed images is at most this.
        portion: share of the training images the patterns are crafted on.
        batch: images per step.
        learning_rate: the surrogate's, SGD.
        lift: how the patterns of several tasks share an image.
    """

    rounds: Annotated[int, Ge(1)] = 50
    surrogate_steps: Annotated[int, Ge(1)] = 10
    step_size: Annotated[float, Gt(0)] = 0.8
    stop_error: Annotated[float, Ge(0)] = 0.1
    portion: Annotated[float, Gt(0), Le(1)] = 0.2
    batch: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 0.1
    lift: Lift = "patch"
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {
        "rounds": 2,
        "surrogate_steps": 2,
        "step_size": 1.6,
        "batch": 20,
    }

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one pattern per task and class."""
        rows = torch.randperm(len(train))[: max(1, round(self.portion * len(train)))].sort().values
        part = select_rows(train, rows)
        training = _surrogate_training(self.surrogate_steps, self.batch, self.learning_rate)
        step_size = context.scale_strength(self.step_size)
        channels = train.images.shape[1]

        def zeros(classes: int, rows: int, columns: int) -> torch.Tensor:
            return torch.zeros(classes, channels, rows, columns, device=context.device)

        tasks = require_classification(context.tasks, "attack 'em-classwise'")
        start = lift_classwise(tasks, self.lift, train, zeros)
        return craft_noise(
            part,
            context,
            ErrorMinimizing(part, context, training, view="image", surrogate_first=True),
            ClasswiseTable(start, epsilon=context.epsilon, step_size=step_size),
            batch_size=self.batch,
            rounds=self.rounds,
            stop_error=self.stop_error,
        )
