"""Several defenses as one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from bench.api import Defense, Task
from bench.defenses.mixing import Mixing
from bench.errors import BenchError
from bench.values import Batch, Progress, Split, ignore_progress


@dataclass(frozen=True)
class Composed:
    """Defenses one after the other, from left to right: each works on what the one before it returns.

    First all of them clean the images, then in every step all of them change the batch.

    Not from a paper.

    Raises:
        BenchError: when more than one of them mixes images: a loss blends two targets at most.

    Attributes:
        parts: the defenses, in order.
    """

    version: ClassVar[int] = 1

    parts: tuple[Defense, ...]

    def __post_init__(self) -> None:
        if sum(isinstance(part, Mixing) for part in self.parts) > 1:
            raise BenchError("a composed defense can mix images once: remove mixup or cutmix")

    @property
    def dense(self) -> bool:
        """All of them can work with dense tasks."""
        return all(part.dense for part in self.parts)

    @property
    def learned(self) -> bool:
        """One of them learns to clean images."""
        return any(part.learned for part in self.parts)

    @property
    def validation(self) -> float:
        """The largest share that one of them holds out."""
        return max(part.validation for part in self.parts)

    @property
    def trusted(self) -> float:
        """The largest share that one of them asks for."""
        return max(part.trusted for part in self.parts)

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images, cleaned by one after the other."""
        for part in self.parts:
            released = replace(released, images=part.purify(released, tasks, device, progress))
        return released.images

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch, changed by one after the other."""
        for part in self.parts:
            batch = part.augment(batch, net, tasks)
        return batch
