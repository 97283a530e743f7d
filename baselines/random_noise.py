"""Random noise: one pattern per class, and one per image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.crafting.lift import ClasswiseNoise, Lift, lift_classwise
from baselines.crafting.noise_table import Rows
from bench.api import CraftContext, Norm
from bench.memory import rows_per_chunk
from bench.values import Split


def draw_uniform(epsilon: float, *shape: int) -> Tensor:
    """Return values drawn uniformly from [−ε, ε]."""
    return torch.rand(*shape).mul_(2).sub_(1).mul_(epsilon)


@dataclass(frozen=True)
class ClasswiseRandom:
    """Uniform random noise, one pattern in [−ε, ε] for every class of every task: the cheapest attack.

    On dense tasks every pixel has its own class's value; depths and directions are divided into classes.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, section 4, class-wise random noise

    Attributes:
        lift: how the patterns of several tasks share an image.
    """

    lift: Lift = "patch"
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> ClasswiseNoise:
        """Draw the patterns."""

        def draw(classes: int, rows: int, columns: int) -> Tensor:
            drawn = draw_uniform(context.epsilon, classes, train.images.shape[1], rows, columns)
            return drawn.to(context.device)

        return lift_classwise(context.tasks, self.lift, train, draw)


@dataclass(frozen=True)
class SamplewiseRandom:
    """Uniform random noise in [−ε, ε], drawn for every image: the negative control.

    It does not depend on the labels, so a victim should still learn the tasks.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, section 4, sample-wise random noise
    """

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Rows:
        """Draw a row for every image."""
        noise = Rows(train)
        for index in torch.arange(len(train)).split(rows_per_chunk(train.images)):
            noise.set_rows(index, draw_uniform(context.epsilon, len(index), *train.images.shape[1:]))
        return noise
