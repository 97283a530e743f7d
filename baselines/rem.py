"""REM: robust error-minimizing noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from baselines.crafting.loop import LossOfDelta, ObjectiveHooks, State, craft_noise, project_delta
from baselines.crafting.noise_table import Table, warn_of_short_path
from baselines.crafting.surrogate_training import (
    SurrogateInTraining,
    SurrogateTraining,
    batch_loss,
    perturb_batch,
    share_missed,
)
from bench.api import CraftContext, Noise, Norm
from bench.training.augmentation import augment, center_crop
from bench.values import Batch, Split


@dataclass(frozen=True)
class REM:
    """Robust error-minimizing noise: error-minimizing even for a victim that is trained adversarially.

    Noise is improved on a batch from a new random start, then the surrogate takes one step on adversarial
    examples of that batch. When the surrogate's steps are used up, a last pass makes the final noise.

    Source: Fu et al., ICLR 2022, arXiv:2203.14533, Alg. 1; many tasks by the mean of their losses

    Attributes:
        iterations: steps of the surrogate, its learning rate divided by ten at 40 % and at 80 % of them.
        steps: gradient steps per image.
        step_size: of one step, in 1/255 at ε = 8/255 and in proportion to ε.
        samples: random crops and flips per step, whose losses are averaged.
        radius: of the adversarial training that the noise is to resist (ρ_a), in the same unit.
        attack_steps: steps of the adversarial examples.
        attack_step_size: size of one of these steps, in the same unit.
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
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {
        "iterations": 3,
        "steps": 2,
        "samples": 2,
        "attack_steps": 1,
        "batch": 20,
    }

    def parameter_warning(self) -> str | None:
        """Return one sentence if the steps cannot cross the budget, else None."""
        return warn_of_short_path(self.steps, self.step_size)

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
            radius=context.scale_strength(self.radius),
            attack_steps=self.attack_steps,
            attack_step_size=context.scale_strength(self.attack_step_size),
            samples=self.samples,
        )
        table = Table(
            train,
            epsilon=context.epsilon,
            steps=self.steps,
            step_size=context.scale_strength(self.step_size),
            start="uniform",
        )
        training_passes = ceil(self.iterations / ceil(len(train) / self.batch))
        return craft_noise(
            train,
            context,
            objective,
            table,
            batch_size=self.batch,
            rounds=training_passes + 1,
            shuffle=True,
        )


class RobustErrorMinimizing(ObjectiveHooks):
    """Minimize the loss of the true labels for a surrogate that is trained adversarially.

    The loss of δ is that of adversarial examples, within ``radius``, of random crops and flips of x + δ; the
    gradient with respect to δ passes straight through the inner maximization.

    Source: Fu et al., ICLR 2022, arXiv:2203.14533, Alg. 1 (REM)
    """

    def __init__(
        self,
        context: CraftContext,
        training: SurrogateTraining,
        *,
        radius: float,
        attack_steps: int,
        attack_step_size: float,
        samples: int,
    ) -> None:
        """Draw ``samples`` crops per step of δ; train the surrogate for ``training.steps`` batches in all."""
        self._tasks = context.tasks
        self._augmentation = context.augmentation
        self._surrogate = SurrogateInTraining(context, training)
        self._radius, self._attack_steps, self._attack_step = radius, attack_steps, attack_step_size
        self._samples = samples
        self._steps_left = training.steps

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the adversarial loss of the true labels, once for each crop that is to be drawn."""
        return [partial(self._loss, self._surrogate.frozen(self._central(batch)), batch)] * self._samples

    def _loss(self, net: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
        seen = augment(perturb_batch(batch, delta), self._augmentation, self._tasks)
        return batch_loss(net, self._tasks, perturb_batch(seen, self._adversarial_change(net, seen)))

    def _adversarial_change(self, net: nn.Module, seen: Batch) -> Tensor:
        """Return the change of the images, within the radius, with the largest loss."""
        fixed = replace(seen, images=seen.images.detach())
        images = fixed.images
        change = torch.empty_like(images).uniform_(-self._radius, self._radius)
        for _ in range(self._attack_steps):
            change.requires_grad_(True)
            loss = batch_loss(net, self._tasks, perturb_batch(fixed, change))
            (slope,) = torch.autograd.grad(loss, change)
            change = project_delta(images, change.detach() + self._attack_step * slope.sign(), self._radius)
        return change.detach()

    def after_batch(self, batch: Batch, noise: Noise) -> None:
        """Train the surrogate on adversarial examples of the batch, until its steps are used up."""
        if not self._steps_left:
            return
        self._steps_left -= 1
        with torch.no_grad():
            seen = augment(perturb_batch(batch, noise.delta(batch)), self._augmentation, self._tasks)
        change = self._adversarial_change(self._surrogate.frozen(seen), seen)
        self._surrogate.step(perturb_batch(seen, change))

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose true label the surrogate does not predict yet."""
        return share_missed(self._surrogate.net, self._tasks, self._central(perturb_batch(batch, delta)))

    def _central(self, batch: Batch) -> Batch:
        return center_crop(batch, self._augmentation, self._tasks)

    def state(self) -> State:
        """Return the surrogate's training and how much of it is left."""
        return {"surrogate": self._surrogate.state(), "left": self._steps_left}

    def load_state(self, state: State) -> None:
        """Resume from a state."""
        self._surrogate.load_state(state["surrogate"])
        self._steps_left = state["left"]
