"""No defense: the victim trains on what was released."""

from dataclasses import dataclass
from typing import ClassVar

from bench.defenses.base import NoOp


@dataclass(frozen=True)
class NoDefense(NoOp):
    """Nothing is done: the reference for every defense.

    Source: the undefended victim of Yu et al., ICML 2025 (MTL-UE)
    """

    version: ClassVar[int] = 1
