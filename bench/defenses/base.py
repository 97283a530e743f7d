"""The base of defenses: it does nothing, and a defense overrides what it does."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from bench.api import Task
from bench.values import Batch, Progress, Split, ignore_progress


class NoOp:
    """Works with any task, changes neither the released images nor a batch, and trains as usual."""

    dense: ClassVar[bool] = True
    learned: ClassVar[bool] = False

    @property
    def validation(self) -> float:
        """Nothing is held out."""
        return 0.0

    @property
    def trusted(self) -> float:
        """Nothing is known to be clean."""
        return 0.0

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the released images."""
        return released.images

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch."""
        return batch
