"""PIL: perturbations that make a network behave like a linear one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from baselines.crafting.loop import LossOfDelta, ObjectiveHooks, State, craft_noise
from baselines.crafting.noise_table import Table, warn_of_short_path
from baselines.crafting.surrogate_training import mean_over_labeled_tasks
from bench.api import CraftContext, Noise, Norm
from bench.tasks.classification import require_classification
from bench.tasks.labels import labeled_mean
from bench.training.loaders import ResumableLoader
from bench.values import MISSING, Batch, Split


@dataclass(frozen=True)
class PIL:
    """Perturbation-induced linearization: linear models can read the labels from the noise only.

    With n = −δ the loss is λ·CE(f(n), y) + (1 − λ)·KL(uniform ‖ f(x − n)) for a linear model f that was
    trained on the clean images.

    Source: "Perturbation-Induced Linearization: Constructing Unlearnable Data with Solely Linear
    Classifiers", ICLR 2026, as its public code (jinlinll/pil) has it

    Departs from the paper: one linear model per task, their losses averaged; x − n is kept in [0, 1] in every
    step, in its code only at the end.

    Attributes:
        steps: gradient steps per image.
        step_size: α of one step, in 1/255 at ε = 8/255 and in proportion to ε.
        balance: λ.
        epochs: passes of the linear models' training.
        learning_rate: the linear models', SGD with momentum 0.9 and a cosine schedule.
        batch: images per step.
    """

    steps: Annotated[int, Ge(1)] = 30
    step_size: Annotated[float, Gt(0)] = 0.8
    balance: Annotated[float, Ge(0), Le(1)] = 0.9
    epochs: Annotated[int, Ge(1)] = 30
    learning_rate: Annotated[float, Gt(0)] = 0.003
    batch: Annotated[int, Ge(1)] = 512
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {"epochs": 2, "steps": 2, "batch": 20}

    def parameter_warning(self) -> str | None:
        """Return one sentence if the steps cannot cross the budget, else None."""
        return warn_of_short_path(self.steps, self.step_size)

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one δ per training image."""
        return craft_noise(
            train,
            context,
            LinearSeparability(
                train,
                context,
                balance=self.balance,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                batch_size=self.batch,
            ),
            Table(
                train,
                epsilon=context.epsilon,
                steps=self.steps,
                step_size=context.scale_strength(self.step_size),
                start="uniform",
            ),
            batch_size=self.batch,
        )


class LinearSeparability(ObjectiveHooks):
    """Make linear models predict the labels from the noise, and nothing from the perturbed image."""

    def __init__(
        self,
        train: Split,
        context: CraftContext,
        *,
        balance: float,
        epochs: int,
        learning_rate: float,
        batch_size: int,
    ) -> None:
        self._tasks = require_classification(context.tasks, "attack 'pil'")
        self._balance, self._epochs, self._learning_rate = balance, epochs, learning_rate
        self._loader = ResumableLoader(train, batch_size, context.device, shuffle=False)
        values = train.images[0].numel()
        # Two layers without bias and without anything between them, as in the source.
        self._models = nn.ModuleList(
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(values, task.classes, bias=False),
                nn.Linear(task.classes, task.classes, bias=False),
            )
            for task in self._tasks
        ).to(context.device)
        self._is_training = False
        # All models are given the same images: together they are one pass.
        self._models[0].register_forward_hook(
            lambda *passed: context.count_pass(passed[-1], self._is_training)
        )

    def before_round(self, noise: Noise) -> None:
        """Train the linear models on the clean images."""
        optimizer = torch.optim.SGD(self._models.parameters(), lr=self._learning_rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._epochs)
        self._is_training = True
        for _ in range(self._epochs):
            for batch in self._loader:
                optimizer.zero_grad(set_to_none=True)
                self._cross_entropy(batch, batch.images).backward()
                optimizer.step()
            self._loader.position = 0
            schedule.step()
        self._is_training = False
        self._models.requires_grad_(False)

    def _cross_entropy(self, batch: Batch, images: Tensor) -> Tensor:
        losses = [
            functional.cross_entropy(model(images), target, ignore_index=MISSING, reduction="sum")
            / (target != MISSING).sum().clamp(min=1)
            for model, target in self._models_and_targets(batch)
        ]
        return torch.stack(losses).mean()

    def _models_and_targets(self, batch: Batch) -> list[tuple[nn.Module, Tensor]]:
        return [
            (model, batch.targets[task.name]) for task, model in zip(self._tasks, self._models, strict=True)
        ]

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return the one loss."""
        return [partial(self._loss, batch)]

    def _loss(self, batch: Batch, delta: Tensor) -> Tensor:
        loss_of_noise = self._cross_entropy(batch, -delta)
        loss_of_images = torch.stack(
            [
                labeled_mean(_from_uniform(model(batch.images + delta)), target)
                for model, target in self._models_and_targets(batch)
            ]
        ).mean()
        return self._balance * loss_of_noise + (1 - self._balance) * loss_of_images

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the share of tasks whose label the linear model does not predict from the noise."""
        missed = [model(-delta).argmax(1) != target for model, target in self._models_and_targets(batch)]
        known = [target != MISSING for _, target in self._models_and_targets(batch)]
        return mean_over_labeled_tasks(torch.stack(missed).float(), torch.stack(known))

    def state(self) -> State:
        """Return the linear models."""
        return {"models": self._models.state_dict()}

    def load_state(self, state: State) -> None:
        """Restore the linear models."""
        self._models.load_state_dict(state["models"])
        self._models.requires_grad_(False)


def _from_uniform(logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Return KL(uniform ‖ softmax) of every row."""
    classes = logits.shape[1]
    uniform = torch.full_like(logits, 1 / classes)
    return functional.kl_div(logits.log_softmax(1), uniform, reduction="none").sum(1)
