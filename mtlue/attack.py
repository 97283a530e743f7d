"""MTL-UE: δ from a generator that knows the image and the labels of all its tasks."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from baselines.craft import LossOfDelta, craft
from baselines.objectives import ErrorMinimising, SurrogateTraining
from bench.api import Batch, CraftContext, Noise, Split
from bench.tasks import classification_only
from mtlue.generator import Generator
from mtlue.regularizers import embedding_regularizers


class GeneratedNoise:
    """δ held by a generator, improved by one optimiser step of the attacker's loss per batch.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1: L = L_base + λ1·L_Intra + λ2·L_Inter; Adam with its
    learning rate divided by ten after 60 % and 80 % of the rounds
    """

    def __init__(
        self, generator: Generator, *, intra: float, inter: float, learning_rate: float, rounds: int
    ) -> None:
        """Take λ1 as ``intra`` and λ2 as ``inter``; ``rounds`` is what the schedule is laid over."""
        self.generator = generator
        self._intra, self._inter = intra, inter
        self._optimizer = torch.optim.Adam(generator.parameters(), lr=learning_rate, weight_decay=1e-4)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(
            self._optimizer, [round(0.6 * rounds), round(0.8 * rounds)], gamma=0.1
        )

    @torch.no_grad()
    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ as it would be released: the generator in evaluation mode."""
        return self.generator.eval()(batch.images, batch.targets)  # type: ignore[no-any-return]

    def improve(self, batch: Batch, loss: LossOfDelta) -> None:
        """Take one step of the generator."""
        self.generator.train()
        intra, inter = embedding_regularizers(self.generator.class_embeddings())
        total = loss(self.generator(batch.images, batch.targets)) + self._intra * intra + self._inter * inter
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._optimizer.step()

    def finish_round(self) -> None:
        """Step the learning rate's schedule."""
        self._schedule.step()

    def finish(self) -> None:
        """Freeze the generator in evaluation mode."""
        self.generator.eval().requires_grad_(False)


@dataclass(frozen=True)
class MTLUE:
    """MTL-UE with EM as base: a generator with class embeddings makes every task's labels easy at once.

    Source: Yu et al., ICML 2025 (MTL-UE), Alg. 1, with the base of Huang et al., ICLR 2021, arXiv:2101.04898;
    the weights λ1 = 20 and λ2 = 100 are the paper's (its public code has 10 and 200)

    Departs from the paper: a crop and a flip are drawn for every image, not once for a batch, and x + δ is
    clipped to [0, 1] with the gradient passed straight through.

    Attributes:
        rounds: cap on the alternations of generator and surrogate training.
        surrogate_steps: mini-batches of surrogate training per round.
        stop_error: stop when the surrogate's error on the perturbed images is at most this.
        intra: λ1, weight of the intra-task regulariser.
        inter: λ2, weight of the inter-task regulariser.
        batch: images per step.
        learning_rate: the generator's and the surrogate's, Adam.
        width: channels of the generator's first block; the published generator is slow on a CPU.
        embedding_channels: channels of one class embedding.
    """

    rounds: Annotated[int, Ge(1)] = 100
    surrogate_steps: Annotated[int, Ge(1)] = 2
    stop_error: Annotated[float, Ge(0)] = 0.01
    intra: Annotated[float, Ge(0)] = 20.0
    inter: Annotated[float, Ge(0)] = 100.0
    batch: Annotated[int, Ge(1)] = 512
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    width: Annotated[int, Ge(2)] = 64
    embedding_channels: Annotated[int, Ge(1)] = 16
    needs_surrogate: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Train the generator; the noise returned can make δ for images it has not seen."""
        _, channels, height, width = train.images.shape
        generator = Generator(
            classification_only(context.tasks, "MTL-UE"),
            channels,
            height,
            width,
            epsilon=context.epsilon,
            base_width=self.width,
            embedding_channels=self.embedding_channels,
        ).to(context.device)
        training = SurrogateTraining(
            steps=self.surrogate_steps,
            batch=self.batch,
            optimizer="adam",
            learning_rate=self.learning_rate,
            weight_decay=1e-4,
            clip_norm=5.0,
            shuffle=True,
        )
        return craft(
            train,
            context,
            ErrorMinimising(train, context, training, augmented=True, surrogate_first=False),
            GeneratedNoise(
                generator,
                intra=self.intra,
                inter=self.inter,
                learning_rate=self.learning_rate,
                rounds=self.rounds,
            ),
            rounds=self.rounds,
            stop_error=self.stop_error,
            batch_size=self.batch,
            shuffle=True,
        )
