"""Linear probe: learn features from a few clean images, and only the heads from the released ones."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Lt

from bench.defenses.base import NoOp


@dataclass(frozen=True)
class LinearProbe(NoOp):
    """Linear probe: heads on released images, above shared parameters trained on a few clean originals.

    An exploiter who owns some of the images has their clean originals. A network is trained on these alone
    (with equal weights and without a defense), all its parameters below the heads are frozen, and new heads
    are trained on the other, released images. This assumes more than other defenses do: compare with care.

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
