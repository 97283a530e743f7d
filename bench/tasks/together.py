"""Questions to all tasks of a batch: like tasks are asked together, as one tensor.

Forty tasks cost little more than one in this way. The answers are those of every task alone.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.tasks.classification import Classification
from bench.tasks.protocol import Task


def losses_by_task(
    tasks: Sequence[Task], outputs: Sequence[Tensor], targets: Mapping[str, Tensor]
) -> Float[Tensor, " t"]:
    """Return the loss of every task, given a network's outputs."""
    return _ask_all(tasks, lambda task, out, target: task.loss(out, target), outputs, _listed(tasks, targets))


def wrong_by_task(
    tasks: Sequence[Task], outputs: Sequence[Tensor], targets: Mapping[str, Tensor]
) -> Float[Tensor, "t b"]:
    """Return, per task and sample, the share of its labels that the outputs get wrong; 0 without labels."""
    return _ask_all(
        tasks, lambda task, out, target: task.share_wrong(out, target), outputs, _listed(tasks, targets)
    )


def labeled_by_task(tasks: Sequence[Task], targets: Mapping[str, Tensor]) -> Bool[Tensor, "t b"]:
    """Return which samples have a label, by task."""
    return _ask_all(tasks, lambda task, target: task.labeled(target), _listed(tasks, targets))


def _listed(tasks: Sequence[Task], targets: Mapping[str, Tensor]) -> list[Tensor]:
    return [targets[task.name] for task in tasks]


def _ask_all(tasks: Sequence[Task], ask: Callable[..., Tensor], *inputs: Sequence[Tensor]) -> Tensor:
    """Return ``ask(task, *its inputs)`` for all tasks in their order, [t ...]."""
    groups = _group_like_tasks(tasks)
    if len(groups) == 1 < len(tasks):
        return ask(tasks[0], *(torch.stack(list(values)) for values in inputs))
    answers: dict[int, Tensor] = {}
    for places in groups:
        first, *others = places
        if others:
            stacked = [torch.stack([values[place] for place in places]) for values in inputs]
            answers.update(zip(places, ask(tasks[first], *stacked).unbind(), strict=True))
        else:
            answers[first] = ask(tasks[first], *(values[first] for values in inputs))
    return torch.stack([answers[place] for place in range(len(tasks))])


def _group_like_tasks(tasks: Sequence[Task]) -> list[list[int]]:
    """Return the places of tasks that take stacked values and have as many outputs; others are alone."""
    groups: dict[tuple[str, int], list[int]] = {}
    for place, task in enumerate(tasks):
        like = ("outputs", task.outputs) if type(task) is Classification else ("place", place)
        groups.setdefault(like, []).append(place)
    return list(groups.values())
