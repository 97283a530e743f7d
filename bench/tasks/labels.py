"""Functions of class labels that several kinds of tasks share."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from bench.tasks.protocol import MISSING


def one_hot(labels: Int64[Tensor, " n"], classes: int) -> Float[Tensor, "n k"]:
    """Return each label's indicator, zeros where it is missing."""
    return functional.one_hot(labels - MISSING, classes + 1)[:, 1:].float()


def shift_labels(labels: Tensor, classes: int) -> Tensor:
    """Return (y + ⌊k/2⌋) mod k for every label, missing ones as they are."""
    return torch.where(labels == MISSING, labels, (labels + classes // 2) % classes)


def labeled_mean(values: Float[Tensor, "*t n"], labels: Int64[Tensor, "*t n"]) -> Float[Tensor, " *t"]:
    """Return the mean over the samples that have a label, 0 where none has."""
    labeled = labels != MISSING
    return (values * labeled).sum(-1) / labeled.sum(-1).clamp(min=1)
