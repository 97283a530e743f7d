"""Linear probe: learn what to look at from clean images, and only what it means from the released ones."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Lt

from bench.defenses.no_op import NoOp


@dataclass(frozen=True)
class LinearProbe(NoOp):
    """Linear probe: heads on released images, above shared parameters trained on a few clean originals.

    An exploiter who owns some of the images, and so their clean originals, trains a network on these alone
    (with equal weights and without a defense), freezes all below the heads and trains new heads on the
    released rest. A stronger assumption than that of other defenses: compare it with them as such.

    Source: frozen features against unlearnable examples as in "When Priors Backfire" (BAIT), 2026,
    arXiv:2603.04731; last layers trained again as in Sandoval-Segura et al., NeurIPS 2023, arXiv:2305.19254

    Departs from the papers: features are of clean images of the same dataset, where the former's are of
    another one and the latter's of the poisoned images, with heads trained on 5,000 clean ones. Heads of
    dense tasks are decoders, not linear.

    Attributes:
        share: of the training images, owned.
    """

    share: Annotated[float, Gt(0), Lt(1)] = 0.2
    version: ClassVar[int] = 1

    @property
    def trusted(self) -> float:
        """The share that is owned."""
        return self.share
