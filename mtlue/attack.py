"""MTL-UE: δ from a generator that knows the image and the labels of all its tasks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from baselines.crafting.loop import LossOfDelta, Objective, State, craft_noise, delta_gradient
from baselines.crafting.objectives import ErrorMinimizing, FixedSurrogate
from baselines.crafting.surrogate_training import SurrogateTraining, SurrogateView
from bench.api import CraftContext, Noise, Norm, Task
from bench.values import Batch, Split
from mtlue.generator import Generator, Inputs, Reduction
from mtlue.profiles import PROFILES, GeneratorTraining, Profile
from mtlue.regularizers import embedding_regularizers

LARGE_SIDE = 200
"""Side in px from which on the generator works at an eighth of the image's resolution."""


class GeneratedNoise:
    """δ held by a generator, improved by one optimizer step of the attacker's loss per batch.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1: L = L_base + λ1·L_Intra + λ2·L_Inter; Adam with its
    learning rate divided by ten after 60 % and 80 % of the rounds
    """

    def __init__(
        self,
        generator: Generator,
        *,
        intra: float,
        inter: float,
        learning_rate: float,
        rounds: int,
        per_task: bool = False,
    ) -> None:
        """``intra`` is λ1, ``inter`` λ2; the schedule of the learning rate covers ``rounds``."""
        self.generator = generator
        self._intra, self._inter, self._per_task = intra, inter, per_task
        self._optimizer = torch.optim.Adam(generator.parameters(), lr=learning_rate, weight_decay=1e-4)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(
            self._optimizer, [round(0.6 * rounds), round(0.8 * rounds)], gamma=0.1
        )

    @torch.no_grad()
    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ as it would be released: the generator in evaluation mode."""
        return self.generator.eval()(batch.images, batch.targets)  # type: ignore[no-any-return]

    def update(self, batch: Batch, losses: Sequence[LossOfDelta]) -> None:
        """Take one step of the generator."""
        self.generator.train()
        delta = self.generator(batch.images, batch.targets)
        self._optimizer.zero_grad(set_to_none=True)
        roots: list[Tensor] = [delta]
        slopes: list[Tensor | None] = [delta_gradient(losses, delta)[1]]
        embeddings = self.generator.class_embeddings()
        if embeddings:
            intra, inter = embedding_regularizers(embeddings, per_task=self._per_task)
            roots.append(self._intra * intra + self._inter * inter)
            slopes.append(None)
        # The generator is differentiated once, however many surrogates there are.
        torch.autograd.backward(roots, slopes)
        self._optimizer.step()

    def finish_round(self) -> None:
        """Step the learning rate's schedule."""
        self._schedule.step()

    def finish(self) -> None:
        """Freeze the generator in evaluation mode."""
        self.generator.eval().requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Return the generator's weights."""
        return dict(self.generator.state_dict())

    def craft_state(self) -> State:
        """Return the generator, its optimizer and its schedule."""
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_craft_state(self, state: State) -> None:
        """Resume from a state."""
        self.generator.load_state_dict(state["generator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


@dataclass(frozen=True)
class MTLUE(ABC):
    """The base of MTL-UE's variants: a generator with class embeddings of all tasks.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1

    Attributes:
        profile: ``paper``: λ = (20, 100), every pair of classes weighs the same, exact budget, a crop and a
            flip per image, targeted TAP; ``official``, the public code: λ = (10, 200), averaged per task plus
            1, δ up to 0.0314 before rounding, one crop and flip per batch, and what its two programs have:
            that for binary tasks, if all tasks are (untargeted TAP), and that for other tasks.
        inputs: the generator's input: ``both``, ``embeddings`` only or the ``image`` only (ablations).
        intra: λ1, weight of the intra-task regularizer; None: the profile's, 0: ablated.
        inter: λ2, weight of the inter-task regularizer; None: the profile's, 0: ablated.
        rounds: cap on the passes over the training set; None: the profile's.
        batch: images per step; None: the profile's.
        stop_error: stop when the share of tasks on which the attacker's aim is not reached is at most this;
            None: the profile's.
        learning_rate: the generator's (and a trained-along surrogate's), Adam.
        width: channels of the generator's first block; the published generator is slow on a CPU.
        embedding_channels: channels of one class embedding.
        reduction: how much smaller the generator's features and embeddings are than the image, 2 or 8; None:
            8 for images of 200 px and more, as in the public code (2 for faces, 8 for X-ray images).
    """

    profile: Literal["paper", "official"] = "paper"
    inputs: Inputs = "both"
    intra: Annotated[float, Ge(0)] | None = None
    inter: Annotated[float, Ge(0)] | None = None
    rounds: Annotated[int, Ge(1)] | None = None
    batch: Annotated[int, Ge(1)] | None = None
    stop_error: Annotated[float, Ge(0)] | None = None
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    width: Annotated[int, Ge(2)] = 64
    embedding_channels: Annotated[int, Ge(1)] = 16
    reduction: Reduction | None = None
    needs_surrogate: ClassVar[bool] = True
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 4
    resumable: ClassVar[bool] = True
    paper: ClassVar[GeneratorTraining]
    official_binary: ClassVar[GeneratorTraining]
    official_other: ClassVar[GeneratorTraining]
    quick_params: ClassVar[dict[str, object]] = {
        "rounds": 2,
        "batch": 20,
        "width": 4,
        "embedding_channels": 2,
    }

    def __post_init__(self) -> None:
        """Fill in the paper's training. The official one stays None: it depends on the tasks."""
        if self.profile == "paper":
            for name, value in asdict(self.paper).items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)

    def training(self, tasks: Sequence[Task]) -> GeneratorTraining:
        """Return how the generator is trained for these tasks."""
        official = self.official_binary if _are_binary(tasks) else self.official_other
        default = self.paper if self.profile == "paper" else official
        given = {name: getattr(self, name) for name in asdict(default) if getattr(self, name) is not None}
        return replace(default, **given)

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Train the generator; the noise returned can make δ for images it has not seen."""
        profile, shape = self._profile, train.images.shape[1:]
        training, generator = self.training(context.tasks), self._generator(context, *shape)
        generator.register_forward_hook(lambda *passed: context.count_pass(passed[-1], False))
        noise = GeneratedNoise(
            generator,
            intra=profile.intra if self.intra is None else self.intra,
            inter=profile.inter if self.inter is None else self.inter,
            per_task=profile.per_task,
            learning_rate=self.learning_rate,
            rounds=training.rounds,
        )
        return craft_noise(
            train,
            context,
            self._objective(train, context),
            noise,
            rounds=training.rounds,
            stop_error=training.stop_error,
            batch_size=training.batch,
            shuffle=True,
        )

    def restore(
        self, state: Mapping[str, Tensor], context: CraftContext, shape: tuple[int, int, int]
    ) -> Noise:
        """Return the noise with this ``state()``, for images [c h w] of the shape it was trained on."""
        generator = self._generator(context, *shape)
        generator.load_state_dict(state)
        noise = GeneratedNoise(generator, intra=0.0, inter=0.0, learning_rate=self.learning_rate, rounds=1)
        noise.finish()
        return noise

    @property
    def _profile(self) -> Profile:
        return PROFILES[self.profile]

    @abstractmethod
    def _objective(self, train: Split, context: CraftContext) -> Objective:
        """Return the objective of the base attack."""

    def _reduction(self, height: int, width: int) -> Reduction:
        if self.reduction is not None:
            return self.reduction
        return 8 if min(height, width) >= LARGE_SIDE else 2

    def _generator(self, context: CraftContext, channels: int, height: int, width: int) -> Generator:
        return Generator(
            context.tasks,
            channels,
            height,
            width,
            epsilon=context.epsilon * self._profile.clamp,
            base_width=self.width,
            embedding_channels=self.embedding_channels,
            inputs=self.inputs,
            reduction=self._reduction(height, width),
        ).to(context.device)


def _are_binary(tasks: Sequence[Task]) -> bool:
    return all(task.kind == "classification" and task.classes == 2 for task in tasks)


@dataclass(frozen=True)
class MTLUEEM(MTLUE):
    """MTL-UE with EM as base: the generator minimizes the loss of a surrogate that is trained along.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1, with the base of Huang et al., ICLR 2021, arXiv:2101.04898

    Departs from the paper: x + δ is clipped to [0, 1] with the gradient passed straight through.

    Departs from the public code (``official``): the rounds are capped, there only for tasks that are not
    binary; the stop error is measured on central crops with the surrogate in evaluation mode.

    Attributes:
        surrogate_steps: mini-batches of surrogate training per round.
    """

    surrogate_steps: Annotated[int, Ge(1)] = 2
    paper: ClassVar[GeneratorTraining] = GeneratorTraining(rounds=100, batch=512, stop_error=0.01)
    official_binary: ClassVar[GeneratorTraining] = paper
    official_other: ClassVar[GeneratorTraining] = replace(paper, batch=128)
    needs_surrogate: ClassVar[bool] = False

    def _objective(self, train: Split, context: CraftContext) -> Objective:
        training = SurrogateTraining(
            steps=self.surrogate_steps,
            batch=self.training(context.tasks).batch,
            optimizer="adam",
            learning_rate=self.learning_rate,
            weight_decay=1e-4,
            clip_norm=5.0,
            shuffle=True,
        )
        view: SurrogateView = "shared-crop" if self._profile.shared_crop else "crop"
        return ErrorMinimizing(train, context, training, view=view, surrogate_first=False)


@dataclass(frozen=True)
class MTLUETAP(MTLUE):
    """MTL-UE with TAP as base: the generator makes a clean surrogate see every label as another one.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1, with the base of Fowl et al., NeurIPS 2021,
    arXiv:2106.10807

    Departs from the paper: x + δ is clipped to [0, 1] with the gradient passed straight through.

    Departs from the public code (``official``): the stop error is measured on central crops.
    """

    paper: ClassVar[GeneratorTraining] = GeneratorTraining(rounds=100, batch=512, stop_error=1e-4)
    # There it stops at an error of 0.9 of the true labels.
    official_binary: ClassVar[GeneratorTraining] = replace(paper, stop_error=0.1)
    official_other: ClassVar[GeneratorTraining] = replace(paper, batch=128)

    def _objective(self, train: Split, context: CraftContext) -> Objective:
        is_away = self._profile.away_if_binary and _are_binary(context.tasks)
        return FixedSurrogate(
            train,
            context,
            context.surrogate_snapshots(1),
            view="shared-crop" if self._profile.shared_crop else "crop",
            aim="away" if is_away else "shifted",
        )


@dataclass(frozen=True)
class MTLUESEP(MTLUE):
    """MTL-UE with SEP as base: the generator misleads the snapshots of a clean surrogate at once.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1, with the base of Chen et al., ICLR 2023, arXiv:2211.12005;
    whole images are shown, as in the public code

    Departs from the paper: x + δ is clipped to [0, 1] with the gradient passed straight through; the
    snapshots' losses are averaged, there summed, the regularizers once per snapshot too.

    Departs from the public code (``official``): the snapshots are the last of every four epochs, there the
    first.

    Attributes:
        checkpoints: equidistant snapshots of the clean training run.
    """

    paper: ClassVar[GeneratorTraining] = GeneratorTraining(rounds=50, batch=512, stop_error=1e-4)
    # There it stops at an error of 0.99 of the true labels.
    official_binary: ClassVar[GeneratorTraining] = replace(paper, batch=1024, stop_error=0.01)
    official_other: ClassVar[GeneratorTraining] = replace(paper, rounds=25, batch=128)
    checkpoints: Annotated[int, Ge(1)] = 15
    quick_params: ClassVar[dict[str, object]] = {**MTLUE.quick_params, "checkpoints": 2}

    def _objective(self, train: Split, context: CraftContext) -> Objective:
        return FixedSurrogate(train, context, context.surrogate_snapshots(self.checkpoints), view="image")
