"""Gaussian noise: drown a perturbation in a stronger one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import nn

from bench.api import Task
from bench.defenses.base import NoOp
from bench.values import Batch


@dataclass(frozen=True)
class GaussianNoise(NoOp):
    """Independent normal noise is added to every value, anew in every step; the sum is clamped to [0, 1].

    Not from a paper: noise as strong as the field's budget.

    Attributes:
        sigma: standard deviation, in steps of 1/255.
    """

    version: ClassVar[int] = 1

    sigma: Annotated[float, Gt(0)] = 8.0

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch with noisy images."""
        noise = torch.randn_like(batch.images) * (self.sigma / 255)
        return replace(batch, images=(batch.images + noise).clamp(0, 1))
