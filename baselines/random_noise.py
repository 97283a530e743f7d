"""Random noise, one pattern per class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.lift import ClasswiseNoise, Lift, lift
from bench.api import CraftContext, Split
from bench.tasks import classification_only


@dataclass(frozen=True)
class ClasswiseRandom:
    """Uniform random noise, one pattern in [−ε, ε] for every class of every task: the cheapest attack.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, section 4, class-wise random noise

    Attributes:
        lift: how the patterns of several tasks share an image.
    """

    lift: Lift = "patch"
    needs_surrogate: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> ClasswiseNoise:
        """Draw the patterns."""
        _, channels, height, width = train.images.shape

        def draw(classes: int, rows: int, columns: int) -> Tensor:
            uniform = torch.rand(classes, channels, rows, columns).mul_(2).sub_(1)
            return (uniform * context.epsilon).to(context.device)

        return lift(classification_only(context.tasks, "attack 'random'"), self.lift, height, width, draw)
