"""δ as one pattern per class, improved by the mean of its samples' gradient steps."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.crafting.lift import ClasswiseNoise
from baselines.crafting.loop import LossOfDelta, PerturberHooks, State, delta_gradient, project_delta
from bench.values import MISSING, Batch


class ClasswiseTable(PerturberHooks):
    """Patterns of every task's classes; an image gets those of its labels.

    On a batch every sample takes a projected signed gradient step from the δ its labels give it; a class's
    pattern then moves by the mean of its samples' moves and is projected onto the budget.

    Source: Huang et al., ICLR 2021, arXiv:2101.04898, class-wise noise with T = 1 as in its
    public code
    """

    def __init__(self, start: ClasswiseNoise, *, epsilon: float, step_size: float) -> None:
        """Start from these patterns; ``step_size`` and ``epsilon`` in [0, 1] pixel units."""
        self._noise = start
        self._epsilon = epsilon
        self._step_size = step_size

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ for the samples' labels."""
        return self._noise.delta(batch)

    def update(self, batch: Batch, losses: Sequence[LossOfDelta]) -> None:
        """Move every pattern by the mean of its samples' moves."""
        if not self._noise.patterns:  # no task has a label
            return
        patterns = [pattern.requires_grad_(True) for pattern in self._noise.patterns]
        composed = self._noise.delta(batch)
        delta = composed.detach()
        step = delta - self._step_size * delta_gradient(losses, delta)[1].sign()
        moves = project_delta(batch.images, step, self._epsilon) - delta
        # δ is linear in the patterns, so this gradient sums the moves of every class's samples.
        sums = torch.autograd.grad(composed, patterns, moves)
        self._noise = replace(
            self._noise,
            patterns=tuple(
                self._move_pattern(pattern.detach(), total, batch.targets[task.name])
                for task, pattern, total in zip(self._noise.tasks, patterns, sums, strict=True)
            ),
        )

    def _move_pattern(self, pattern: Tensor, total: Tensor, labels: Tensor) -> Tensor:
        """Return a task's patterns after the step; the row of a missing label stays zero."""
        rows = torch.where(labels == MISSING, len(pattern) - 1, labels)
        count = rows.bincount(minlength=len(pattern)).clamp(min=1).view(-1, 1, 1, 1)
        moved = (pattern + total / (count * self._noise.scale)).clamp(-self._epsilon, self._epsilon)
        moved[-1] = 0
        return moved

    def craft_state(self) -> State:
        """Return the patterns."""
        return {"patterns": [pattern.detach() for pattern in self._noise.patterns]}

    def load_craft_state(self, state: State) -> None:
        """Restore the patterns."""
        saved = zip(state["patterns"], self._noise.patterns, strict=True)
        self._noise = replace(self._noise, patterns=tuple(new.to(old.device) for new, old in saved))
