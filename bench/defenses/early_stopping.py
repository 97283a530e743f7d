"""Early stopping: keep the network from before the noise took over."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Lt

from bench.defenses.base import NoOp


@dataclass(frozen=True)
class EarlyStopping(NoOp):
    """Early stopping: use the network of the epoch with the best score on held-out released images.

    The score is the mean over the tasks of the scored metric's share of the way from floor to perfect; of
    equal epochs the earliest is used. The exploiter has no clean images, so the held-out ones carry the same
    noise.

    Source: the peak over the epochs of Sandoval-Segura et al., 2022, arXiv:2204.08615

    Departs from the paper: it takes the best epoch on the clean test set, which an exploiter does not have; a
    record has that score as its ``peak``.

    Attributes:
        share: of the released images, held out.
    """

    share: Annotated[float, Gt(0), Lt(1)] = 0.1
    version: ClassVar[int] = 1

    @property
    def validation(self) -> float:
        """The share that is held out."""
        return self.share
