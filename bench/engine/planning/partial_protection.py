"""Partial protection: an attack protects only some of the images, or only some of the tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from jaxtyping import Bool
from torch import Tensor

from bench.api import MultiTaskData
from bench.catalog.build import build_validated
from bench.errors import unknown_name_error
from bench.values import MISSING, Split


@dataclass(frozen=True)
class PartialProtection:
    """The two parameters that every attack takes: ``em(rate=0.5)``, ``em(tasks=["left"])``.

    Attributes:
        rate: share of the training images that are perturbed; they are drawn with the poison's seed. The
            noise is crafted on all images, as is usual, so that all rates share one poison.
        tasks: names of the protected tasks; empty means all. The attack sees no labels of the others.
    """

    rate: Annotated[float, Gt(0), Le(1)] = 1.0
    tasks: tuple[str, ...] = ()


PARTIAL_PARAMETERS = tuple(field.name for field in fields(PartialProtection))
"""Names of the parameters of partial protection."""

COMMON_PARAMETERS = (*PARTIAL_PARAMETERS, "epsilon")
"""Names of the parameters that every attack takes: partial protection, and a budget of its own."""


def read_partial_protection(attack: str, params: Mapping[str, Any]) -> PartialProtection:
    """Return the partial protection that an attack's parameters ask for; other parameters are ignored.

    Raises:
        BenchError: for a rate outside of (0, 1], or tasks that are not a list of names.
    """
    partial = {name: value for name, value in params.items() if name in PARTIAL_PARAMETERS}
    if isinstance(partial.get("tasks"), str):
        partial["tasks"] = [partial["tasks"]]
    protection: PartialProtection = build_validated(PartialProtection, partial, f"attack {attack!r}")
    return protection


def draw_perturbed_rows(count: int, rate: float, seed: int) -> Bool[Tensor, " n"]:
    """Return a mask of the perturbed images: round(rate·count) of them, drawn with the seed."""
    perturbed = torch.zeros(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    perturbed[order[: round(rate * count)]] = True
    return perturbed


def hide_unprotected(data: MultiTaskData, tasks: tuple[str, ...]) -> Split:
    """Return the training set as the attack sees it, without the labels of unprotected tasks.

    Raises:
        BenchError: for a task that the dataset does not have.
    """
    names = [task.name for task in data.tasks]
    for task in tasks:
        if task not in names:
            raise unknown_name_error("task", task, names)
    if not tasks:
        return data.train
    targets = {
        name: labels if name in tasks else torch.full_like(labels, MISSING)
        for name, labels in data.train.targets.items()
    }
    return replace(data.train, targets=targets)
