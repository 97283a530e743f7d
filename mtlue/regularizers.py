"""The two regularizers of MTL-UE's class embeddings, from one matrix of cosines."""

from collections.abc import Sequence

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
    sizes = torch.tensor([len(rows) for rows in embeddings])
    rows = functional.normalize(torch.cat(list(embeddings)), dim=1)
    task = torch.repeat_interleave(sizes).to(rows.device)
    cosines = rows @ rows.T
    upper = torch.ones_like(cosines, dtype=torch.bool).triu(diagonal=1)
    same = (task[:, None] == task) & upper
    other = (task[:, None] != task) & upper
    if per_task:
        pairs = torch.zeros(len(sizes), device=rows.device).index_add_(0, task, same.sum(1).float())
        # Every pair of a task has the weight 1 / number of the task's pairs.
        weighted = cosines * same / pairs.clamp(min=1)[task][:, None]
        intra = weighted.sum() / len(sizes) + 1
    else:
        intra = (cosines * same).sum() / same.sum().clamp(min=1)
    inter = (cosines.abs() * other).sum() / other.sum().clamp(min=1)
    return intra, inter
