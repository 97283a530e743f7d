"""δ as a table: one row per training image, improved by projected signed gradient steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.craft import LossOfDelta
from bench.api import Batch, Split


class Table:
    """One free δ for every training image.

    Source: the PGD of Madry et al., ICLR 2018, arXiv:1706.06083, as Huang et al., ICLR 2021 use it

    Rows are held as float16 in host memory, a quarter of a 1/255 step at the 12th binary digit being finer
    than any step an attack takes, so that a large set takes half the room.
    """

    def __init__(self, train: Split, *, epsilon: float, steps: int, step_size: float) -> None:
        """Start from zero noise; ``step_size`` and ``epsilon`` in [0, 1] pixel units."""
        self._rows = torch.zeros(train.images.shape, dtype=torch.float16)
        self._epsilon = epsilon
        self._steps = steps
        self._step_size = step_size

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return the rows of these samples."""
        return self._rows[batch.index].to(batch.images.device).float()

    def improve(self, batch: Batch, loss: LossOfDelta) -> None:
        """Take the steps: δ ← Π_ε(δ − α·sign ∇), with x + δ kept in [0, 1]."""
        delta = self.delta(batch)
        for _ in range(self._steps):
            delta.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(delta), delta)
            with torch.no_grad():
                delta = (delta - self._step_size * gradient.sign()).clamp_(-self._epsilon, self._epsilon)
                delta = (batch.images + delta).clamp_(0, 1) - batch.images
        self._rows[batch.index] = delta.detach().to(self._rows)

    def finish_round(self) -> None:
        """Do nothing: a table has no schedule."""

    def finish(self) -> None:
        """Do nothing: the rows are the result."""
