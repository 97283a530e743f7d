"""The two regularizers of MTL-UE's class embeddings, from one matrix of cosines."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def embedding_regularizers(
    embeddings: Sequence[Float[Tensor, "_ d"]], *, per_task: bool = False
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the intra-task and the inter-task regularizer of the tasks' class embeddings.

    With the cosines of all pairs of class embeddings, intra is their mean over pairs of classes of one task
    (to separate the classes of a task), inter the mean of their absolute value over pairs of classes of two
    tasks (to keep tasks from interfering).

    Source: Yu et al., ICML 2025 (MTL-UE), Eq. of L_Intra and L_Inter: every pair has the same weight

    Args:
        embeddings: one matrix [k d] per task, the same d for all.
        per_task: take intra's mean within every task first, then over tasks, and add 1, as the public code
            does.

    Returns:
        Two scalars; 0 where there is no pair.
    """
    pairs = _pair_masks(tuple(len(rows) for rows in embeddings), embeddings[0].device)
    rows = functional.normalize(torch.cat(list(embeddings)), dim=1)
    cosines = rows @ rows.T
    if per_task:
        intra = (cosines * pairs.same / pairs.of_own_task).sum() / len(embeddings) + 1
    else:
        intra = (cosines * pairs.same).sum() / pairs.same_count
    inter = (cosines.abs() * pairs.other).sum() / pairs.other_count
    return intra, inter


class _Pairs(NamedTuple):
    """Which pairs of class embeddings, each counted once, are of one task and which of two tasks.

    The counts are 1 where there is no pair.
    """

    same: Float[Tensor, "n n"]
    other: Float[Tensor, "n n"]
    same_count: int
    other_count: int
    of_own_task: Float[Tensor, "n 1"]
    """For every embedding, the number of pairs of its task."""


@lru_cache(maxsize=8)
def _pair_masks(sizes: tuple[int, ...], device: torch.device) -> _Pairs:
    """Return the pairs for these numbers of classes; made once, since copying them makes a GPU wait."""
    task = torch.repeat_interleave(torch.tensor(sizes))
    upper = torch.ones(len(task), len(task)).triu(diagonal=1)
    same = upper * (task[:, None] == task)
    other = upper - same
    of_task = torch.tensor([max(1, size * (size - 1) // 2) for size in sizes], dtype=torch.float)
    return _Pairs(
        same.to(device),
        other.to(device),
        max(1, int(same.sum())),
        max(1, int(other.sum())),
        of_task[task][:, None].to(device),
    )
