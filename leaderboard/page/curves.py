"""Learning curves as the page shows them: relative scores, shortened to three decimals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.record import Record, relative_score
from leaderboard.scores import mean_relative_score

MAX_TASK_LINES = 8
"""With more tasks only their mean is drawn: lines of 40 tasks cannot be told apart, and take most bytes."""


@dataclass(frozen=True)
class CellCurve:
    """The learning curve of a cell.

    Attributes:
        epochs: their numbers.
        mean: relative score (0: floor, 1: perfect), the mean over tasks.
        train_loss: on the training set.
        tasks: task → relative score; empty with more than `MAX_TASK_LINES`.
    """

    epochs: Sequence[int]
    mean: Sequence[float | None]
    train_loss: Sequence[float | None]
    tasks: Mapping[str, Sequence[float | None]]


def shorten_curve(record: Record) -> CellCurve:
    """Return the curve of a record."""
    tasks = record.tasks if len(record.tasks) <= MAX_TASK_LINES else {}
    return CellCurve(
        epochs=[point["epoch"] for point in record.curve],
        mean=[_round_value(mean_relative_score(point["scores"], record.tasks)) for point in record.curve],
        train_loss=[_round_value(point["train_loss"]) for point in record.curve],
        tasks={
            task: [
                _round_value(relative_score(info, point["scores"].get(task, {}).get(info["scored"])))
                for point in record.curve
            ]
            for task, info in tasks.items()
        },
    )


def _round_value(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


@dataclass(frozen=True)
class SeedCurve:
    """The curve of several seeds: epochs, mean over seeds, smallest and largest."""

    epochs: Sequence[int]
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]


def average_curves(seeds: Mapping[str, int], curves: Mapping[str, CellCurve]) -> SeedCurve | None:
    """Return the mean of the curves of some victims over seeds, None without curves.

    Args:
        seeds: key of each victim → its seed.
        curves: key → curve.
    """
    of_seeds: dict[int, list[CellCurve]] = {}
    for key, seed in seeds.items():
        if key in curves:
            of_seeds.setdefault(seed, []).append(curves[key])
    by_seed = [_mean_by_epoch(of_seed) for of_seed in of_seeds.values()]
    epochs = sorted({epoch for points in by_seed for epoch in points})
    if not epochs:
        return None
    at_epochs = [[points[epoch] for points in by_seed if epoch in points] for epoch in epochs]
    return SeedCurve(
        epochs=epochs,
        mean=[_round_value(fmean(values)) for values in at_epochs],
        low=[min(values) for values in at_epochs],
        high=[max(values) for values in at_epochs],
    )


def _mean_by_epoch(curves: Sequence[CellCurve]) -> dict[int, float]:
    points: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(curve.epochs, curve.mean, strict=True):
            if value is not None:
                points.setdefault(epoch, []).append(value)
    return {epoch: fmean(values) for epoch, values in points.items()}
