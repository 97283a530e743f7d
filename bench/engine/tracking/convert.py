"""Convert a record into the parameters, metrics, tags and inputs of an MLflow run."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.files import hash_json
from bench.record import CLEAN, NoiseReport, Record, Scores

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


KEY_TAG, CHECKSUM_TAG = "mtlue.key", "mtlue.checksum"
"""Tags of a cell's run: the record's key and its content's digest. Its status is set last, and so says
that the run is whole."""

SUITE_TAG = "mtlue.suite"
"""Tag of the run that the cells' runs are nested in; its checksum, set last, is that of its artifacts."""

PARENT_TAG, CONTEXT_TAG, KIND_TAG = "mlflow.parentRunId", "mlflow.data.context", "mlflow.experimentKind"
"""MLflow's own tags: the run a run is nested in, what an input was for, what an experiment is about."""

NAME_LIMIT, PARAM_LIMIT, TAG_LIMIT, SOURCE_LIMIT, DIGEST_LIMIT = 250, 6000, 5000, 60_000, 36
"""MLflow's longest names and values, in characters."""

PARAMS_PER_CALL, METRICS_PER_CALL = 100, 900
"""So many of both are one of MLflow's batches, which are of 1,000 values."""


def run_status(record: Record) -> str:
    """Return MLflow's status for a record."""
    return "FINISHED" if record.status == "done" else "FAILED"


def metric_batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the items in slices of at most ``size``."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def dataset_inputs(record: Record) -> "list[DatasetInput]":
    """Return the data a victim was trained on and the poison in it; nothing where that is not known."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if record.status == "failed" or "data" not in record.environment:
        return []
    used: list[tuple[str, str, str, Mapping[str, Any]]] = [
        ("dataset", record.environment["data"], "training", {"tasks": record.tasks})
    ]
    if str(record.cell["attack"]).partition("(")[0] != CLEAN:
        used.append(("attack", record.poison, "poison", record.noise))
    return [
        DatasetInput(
            Dataset(
                name=truncate(str(record.cell[axis]), NAME_LIMIT),
                digest=truncate(identity, DIGEST_LIMIT),
                source_type="mtlue",
                source=truncate(json.dumps(record.settings.get(axis)), SOURCE_LIMIT),
                profile=json.dumps(profile),
            ),
            [InputTag(CONTEXT_TAG, context)],
        )
        for axis, identity, context, profile in used
    ]


def record_tags(record: Record) -> dict[str, str]:
    """Return the tags of a record's run."""
    tags = {axis: str(label) for axis, label in record.cell.items()} | {
        KEY_TAG: record.key,
        "suite": record.suite,
        "status": record.status,
        "poison": record.poison,
        "victim": record.victim,
    }
    if record.error:
        tags["error"] = f"{record.error['type']}: {record.error['message']}"
    return {safe_name(name): truncate(value, TAG_LIMIT) for name, value in tags.items()}


def record_params(record: Record) -> dict[str, str]:
    """Return the settings of a record as MLflow parameters."""
    values = {**dict(_flatten(record.settings)), **record.cell}
    return {safe_name(name): truncate(_param_text(value), PARAM_LIMIT) for name, value in values.items()}


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _param_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def record_metrics(record: Record) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) of every number of a record that is not None.

    MLflow shows what is before the last slash of a name as one section of charts.
    """
    for name, value, step in _numbers(record):
        if value is not None:
            yield name, float(value), step


def _numbers(record: Record) -> Iterator[tuple[str, float | None, int]]:
    for point in record.curve:
        step = point["epoch"]
        yield "train/loss", point["train_loss"], step
        yield "train/learning_rate", point["learning_rate"], step
        yield from ((f"weight/{task}", weight, step) for task, weight in point["weights"].items())
        yield from ((f"{metric}/{task}", value, step) for metric, task, value in _scores(point["scores"]))
        yield from (
            (f"validation/{task}", value, step) for task, value in point.get("validation", {}).items()
        )
    yield from ((f"final/{metric}.{task}", value, 0) for metric, task, value in _scores(record.scores))
    yield from ((f"peak/{metric}.{task}", value, 0) for metric, task, value in _scores(record.peak))
    yield from ((f"noise/{name}", value, 0) for name, value in _noise(record.noise))
    for phase, cost in record.cost.items():
        yield f"cost/seconds.{phase}", cost["seconds"], 0
        yield f"cost/images_per_s.{phase}", cost["images_per_s"], 0
        yield f"cost/peak_host_mb.{phase}", cost["peak_host_mb"], 0
        yield f"cost/peak_device_mb.{phase}", cost["peak_device_mb"], 0


def _noise(noise: NoiseReport) -> Iterator[tuple[str, float | None]]:
    numbers: Mapping[str, Any] = noise
    for name, value in numbers.items():
        if name == "tasks":
            yield from ((f"{measure}.{task}", number) for measure, task, number in _scores(value))
        else:
            yield name, value


def _scores(scores: Scores) -> Iterator[tuple[str, str, float | None]]:
    for task, metrics in scores.items():
        yield from ((metric, task, value) for metric, value in metrics.items())


@cache
def safe_name(text: str) -> str:
    """Return a name MLflow takes: that very text, else a similar one with a digest that tells it apart."""
    plain = re.sub(r"[^\w\-. /:]", "_", text)
    plain = "/".join(piece if piece.strip(".") else "_" for piece in plain.split("/"))
    if plain == text and len(text) <= NAME_LIMIT:
        return text
    return f"{plain[: NAME_LIMIT - 9]}-{hash_json(text)[:8]}"


def truncate(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def time_span(record: Record) -> tuple[int | None, int | None]:
    """Return when the cell began and ended, in ms since 1970; None where the record does not say."""
    if not record.finished:
        return None, None
    finished = datetime.fromisoformat(record.finished)
    end = finished if finished.tzinfo else finished.replace(tzinfo=UTC)
    return round((end.timestamp() - record.own_seconds) * 1000), round(end.timestamp() * 1000)
