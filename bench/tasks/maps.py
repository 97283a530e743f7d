"""Functions that tasks with one value per pixel share."""

from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor

from bench.tasks.protocol import Task

VALUES_PER_CHUNK = 2**24
"""Values of a set of maps that are processed together; changes memory and speed, not results."""


def share_of_pixels(wrong: Bool[Tensor, "b ..."], known: Bool[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Return, per sample, the share of known pixels that are wrong."""
    return (wrong & known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def split_maps(maps: Tensor) -> Iterator[Tensor]:
    """Yield a set of maps some at a time, since all of them may not fit in memory as floats."""
    yield from maps.split(max(1, VALUES_PER_CHUNK // max(1, maps[:1].numel())))


def score_constant(task: Task, answer: Tensor, maps: Tensor) -> dict[str, float]:
    """Return a task's metrics for the same answer at every pixel of a set of maps; 0 if undefined."""
    scorer = task.scorer()
    for some in split_maps(maps):
        target = some.float()
        scorer.update(answer.expand_as(target), target)
    return {metric: value or 0.0 for metric, value in scorer.compute().items()}
