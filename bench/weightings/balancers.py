"""What a balancer need not say if it has nothing to learn and nothing to remember."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Step


class StatelessBalancer:
    """No parameters, and no memory of past steps and epochs."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return none."""
        return ()

    def finish_step(self, step: Step) -> None:
        """Do nothing."""

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Do nothing."""
