"""Early stopping: keep the network from before the noise took over."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Lt

from bench.defenses.no_op import NoOp


@dataclass(frozen=True)
class EarlyStopping(NoOp):
    """Early stopping: the network of the epoch that is best on released images it was not trained on.

    Best is the largest mean over the tasks of how far the scored metric is from the floor to perfect, the
    earliest of equals. The exploiter has no clean images, so what is held out carries the same noise.

    Source: the peak over the epochs of Sandoval-Segura et al., 2022, arXiv:2204.08615

    Departs from the paper: it takes the best epoch on the clean test set, which nobody has who trains; a
    record has that as its ``peak``.

    Attributes:
        share: of the released images, held out.
    """

    share: Annotated[float, Gt(0), Lt(1)] = 0.1
    version: ClassVar[int] = 1

    @property
    def validation(self) -> float:
        """The share that is held out."""
        return self.share
