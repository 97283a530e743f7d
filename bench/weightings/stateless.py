"""What a balancer need not say if it has nothing to learn and nothing to remember."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Stateless:
    """No parameters, and no memory of past epochs."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return none."""
        return ()

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Do nothing."""
