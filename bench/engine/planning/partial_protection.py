"""Partial protection: an attack on some of the images, or on some of the tasks, only."""

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
    """Two parameters that every attack takes: ``em(rate=0.5)``, ``em(tasks=["left"])``.

    Attributes:
        rate: share of the training images that are perturbed, drawn with the poison's seed. The noise is
            crafted on all of them, as the field does, so that one poison serves every rate.
        tasks: names of the tasks that are protected; empty: all. The attack does not see the others' labels.
    """

    rate: Annotated[float, Gt(0), Le(1)] = 1.0
    tasks: tuple[str, ...] = ()


PARTIAL_PARAMETERS = tuple(field.name for field in fields(PartialProtection))
"""Names of the parameters that every attack takes."""


def read_partial_protection(attack: str, params: Mapping[str, Any]) -> PartialProtection:
    """Return the scope that an attack's parameters ask for.

    Raises:
        BenchError: for a rate outside of (0, 1], or tasks that are no list of names.
    """
    asked = {name: value for name, value in params.items() if name in PARTIAL_PARAMETERS}
    if isinstance(asked.get("tasks"), str):
        asked["tasks"] = [asked["tasks"]]
    scope: PartialProtection = build_validated(PartialProtection, asked, f"attack {attack!r}")
    return scope


def draw_perturbed_rows(count: int, rate: float, seed: int) -> Bool[Tensor, " n"]:
    """Return which of ``count`` images are perturbed: round(rate·count) of them, drawn with the seed."""
    chosen = torch.zeros(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen[order[: round(rate * count)]] = True
    return chosen


def hide_unprotected(data: MultiTaskData, tasks: tuple[str, ...]) -> Split:
    """Return the training set as the attack sees it: without the labels of unprotected tasks.

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
