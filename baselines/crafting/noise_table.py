"""δ as a table: one row per training image, fixed or improved by projected signed gradient steps."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from baselines.crafting.loop import LossOfDelta, PerturberHooks, State, delta_gradient, project_delta
from bench.memory import allocate_zeros
from bench.values import EPSILON, Batch, Split

Start = Literal["rows", "uniform", "normal"]
"""Start of a batch's steps: the δ they ended at last, U(-ε, ε), or N(0, ε²) within the budget."""


def warn_of_short_path(steps: int, step_size: float) -> str | None:
    """Return one sentence if steps of this size (in 1/255 at ε = 8/255) cannot cross the budget, or None."""
    reach = steps * step_size / EPSILON
    if reach >= 1:
        return None
    return (
        f"its steps ({steps} of size {step_size:g}) change a value by {reach:.0%} of the budget at most; "
        "raise its parameters 'steps' or 'step_size'"
    )


class Rows:
    """One fixed δ for every training image.

    Rows are float16 in host memory, so that a large set takes half the memory. Their resolution is finer than
    any step an attack takes.
    """

    def __init__(self, train: Split) -> None:
        """Start from zero noise."""
        self._rows = allocate_zeros(train.images.shape, torch.float16)

    def set_rows(
        self, index: Int64[Tensor, " b"], delta: Float[Tensor, "b c h w"], top: int = 0, left: int = 0
    ) -> None:
        """Set the rows of these samples, or the part of them that has δ's size and this corner."""
        height, width = delta.shape[2:]
        self._rows[index, :, top : top + height, left : left + width] = delta.to(self._rows)

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return the rows of these samples."""
        return self._rows[batch.index].to(batch.images.device).float()


class Table(PerturberHooks, Rows):
    """One free δ for every training image.

    Source: the PGD of Madry et al., ICLR 2018, arXiv:1706.06083, as Huang et al., ICLR 2021 use it
    """

    def __init__(
        self,
        train: Split,
        *,
        epsilon: float,
        steps: int,
        step_size: float,
        start: Start = "rows",
        restarts: int = 1,
    ) -> None:
        """Start from zero noise; ``step_size`` and ``epsilon`` in [0, 1] pixel units.

        Of several ``restarts`` the one with the lowest loss on the batch is kept.
        """
        super().__init__(train)
        self._epsilon = epsilon
        self._steps = steps
        self._step_size = step_size
        self._start = start
        self._restarts = restarts

    def update(self, batch: Batch, losses: Sequence[LossOfDelta]) -> None:
        """Take the steps: δ ← Π_ε(δ − α·sign ∇), with x + δ kept in [0, 1]."""
        best = self._improve(batch, losses)
        for _ in range(self._restarts - 1):
            other = self._improve(batch, losses)
            is_better = delta_gradient(losses, other)[0] < delta_gradient(losses, best)[0]
            best = torch.where(is_better, other, best)  # without waiting for a GPU
        self.set_rows(batch.index, best)

    def _improve(self, batch: Batch, losses: Sequence[LossOfDelta]) -> Tensor:
        """Return δ after all steps; a sample without a label, on which no loss depends, keeps its row."""
        start = self._start_delta(batch)
        delta = self._descend(batch, losses, start)
        if self._start == "rows":
            return delta
        moved = ((delta - start).abs() > self._step_size / 2).flatten(1).any(1)
        return torch.where(moved.view(-1, 1, 1, 1), delta, self.delta(batch))

    def _start_delta(self, batch: Batch) -> Tensor:
        if self._start == "rows":
            return self.delta(batch)
        if self._start == "uniform":
            drawn = torch.rand_like(batch.images).mul_(2).sub_(1)
        else:
            drawn = torch.randn_like(batch.images)
        return project_delta(batch.images, drawn * self._epsilon, self._epsilon)

    def _descend(self, batch: Batch, losses: Sequence[LossOfDelta], delta: Tensor) -> Tensor:
        for _ in range(self._steps):
            delta = self._step(batch.images, delta, delta_gradient(losses, delta)[1])
        return delta

    def _step(self, images: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
        return project_delta(images, delta - self._step_size * direction.sign(), self._epsilon)

    def craft_state(self) -> State:
        """Return the rows."""
        return {"rows": self._rows}

    def load_craft_state(self, state: State) -> None:
        """Restore the rows."""
        self._rows.copy_(state["rows"])


class VarianceReducedTable(Table):
    """A table whose steps follow variance-reduced gradients over an ensemble of surrogates.

    Every outer step takes the gradients of all surrogates once; inner steps at a moving δ correct the
    gradient of one drawn surrogate by how far its first one was from the mean. Their sum is the direction of
    the outer step.

    Source: Chen et al., ICLR 2023, arXiv:2211.12005, Alg. 1 (SEP-FA-VR), after SVRG
    """

    def __init__(
        self, train: Split, *, epsilon: float, steps: int, step_size: float, inner_steps: int
    ) -> None:
        """Take ``inner_steps`` corrections (M) in each of the ``steps`` (T)."""
        super().__init__(train, epsilon=epsilon, steps=steps, step_size=step_size)
        self._inner_steps = inner_steps

    def _descend(self, batch: Batch, losses: Sequence[LossOfDelta], delta: Tensor) -> Tensor:
        for _ in range(self._steps):
            firsts = [delta_gradient([loss], delta)[1] for loss in losses]
            mean = torch.stack(firsts).mean(0)
            moving, direction = delta, torch.zeros_like(delta)
            for drawn in torch.randint(len(losses), (self._inner_steps,)).tolist():
                direction = direction + delta_gradient([losses[drawn]], moving)[1] - (firsts[drawn] - mean)
                moving = self._step(batch.images, moving, direction)
            delta = self._step(batch.images, delta, direction)
        return delta
