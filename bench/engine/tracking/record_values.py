"""What every sink shows of a record, under the same names: settings and numbers."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, cast

from bench.files import hash_json
from bench.record import Record, Scores

PROTECTION = "protection"
"""Name of the mean protection of a cell over its tasks; that of one task is ``protection/TASK``."""

BOARD, BY_ATTACK = "board", "by_attack"
"""Sections of charts: the line of an attack on the board, and the lines of all attacks in one place."""

LAYOUT = 2
"""Version of the names of numbers: what is shown under those of an earlier one is replaced."""

LogNumber = tuple[str, float, int]
"""Name, value and step: the epoch for a number of the learning curve, else 0."""


def time_span(record: Record) -> tuple[int | None, int | None]:
    """Return when the cell began and ended, in ms since 1970; None if the record does not say."""
    if not record.finished:
        return None, None
    finished = datetime.fromisoformat(record.finished)
    end = finished if finished.tzinfo else finished.replace(tzinfo=UTC)
    return round((end.timestamp() - record.own_seconds) * 1000), round(end.timestamp() * 1000)


def record_checksum(record: Record) -> str:
    """Return the checksum of what is shown of a record, except for what depends on other records."""
    return hash_json([LAYOUT, vars(record)])


def record_tags(record: Record) -> dict[str, str]:
    """Return what identifies a record and its state."""
    tags = {axis: str(label) for axis, label in record.cell.items()} | {
        "suite": record.suite,
        "status": record.status,
        "poison": record.poison,
        "victim": record.victim,
    }
    if record.error:
        tags["error"] = f"{record.error['type']}: {record.error['message']}"
    return tags


def record_settings(record: Record) -> dict[str, Any]:
    """Return the settings of a record: the labels of its axes, and every setting by its path."""
    return {**dict(_flatten_settings(record.settings)), **record.cell}


def record_params(record: Record) -> dict[str, str]:
    """Return the settings of a record as texts."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in record_settings(record).items()
    }


def _flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def protection_numbers(by_task: Mapping[str, float]) -> dict[str, float]:
    """Return a cell's protection by name: the mean over the tasks, and that of every task."""
    mean = {PROTECTION: fmean(by_task.values())} if by_task else {}
    return mean | {f"{PROTECTION}/{task}": value for task, value in by_task.items()}


def at_step_0(numbers: Mapping[str, float]) -> Iterator[LogNumber]:
    """Yield numbers that do not belong to an epoch."""
    return ((name, value, 0) for name, value in numbers.items())


def record_numbers(record: Record) -> Iterator[LogNumber]:
    """Yield every number of a record that is not None.

    Viewers show names with the same text before the last slash in one section of charts. MLflow sorts the
    sections by their names: none is before `BOARD`.
    """
    for name, value, step in (*_curve_numbers(record), *_final_numbers(record)):
        if value is not None:
            yield name, float(value), step


def _curve_numbers(record: Record) -> Iterator[tuple[str, float | None, int]]:
    for point in record.curve:
        step = point["epoch"]
        yield "train/loss", point["train_loss"], step
        yield "train/learning_rate", point["learning_rate"], step
        yield from ((f"weight/{task}", weight, step) for task, weight in point["weights"].items())
        scores = _by_task(point["scores"])
        yield from ((f"test/{metric}.{task}", value, step) for metric, task, value in scores)
        validation = point.get("validation", {})
        yield from ((f"validation/{task}", value, step) for task, value in validation.items())


def _final_numbers(record: Record) -> Iterator[tuple[str, float | None, int]]:
    noise = cast("dict[str, Any]", dict(record.noise))
    groups = {"final": record.scores, "peak": record.peak, "noise": noise.pop("tasks", {})}
    for group, scores in groups.items():
        yield from ((f"{group}/{name}.{task}", value, 0) for name, task, value in _by_task(scores))
    yield from ((f"noise/{name}", value, 0) for name, value in noise.items())
    for phase, cost in record.cost.items():
        numbers = cast("dict[str, float | None]", cost)
        yield from ((f"cost/{name}.{phase}", value, 0) for name, value in numbers.items())


def _by_task(scores: Scores) -> Iterator[tuple[str, str, float | None]]:
    for task, metrics in scores.items():
        yield from ((metric, task, value) for metric, value in metrics.items())


def truncate(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
