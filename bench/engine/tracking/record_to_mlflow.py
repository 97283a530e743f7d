"""Convert a record to the parameters, metrics, tags and inputs of an MLflow run."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from bench.files import hash_json
from bench.record import Record, Scores, is_clean

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

KEY_TAG, CHECKSUM_TAG = "mtlue.key", "mtlue.checksum"
"""Tags of a cell's run: the key of the record and the checksum of its content. The status of a run is set
last: a run with the right status is complete."""

SUITE_TAG = "mtlue.suite"
"""Tag of a suite's run, in which the runs of its cells are nested; its checksum is that of its artifacts."""

PARENT_TAG, CONTEXT_TAG, KIND_TAG = "mlflow.parentRunId", "mlflow.data.context", "mlflow.experimentKind"
"""Tags defined by MLflow: the run a run is nested in, the use of an input, the kind of an experiment."""

NAME_LIMIT, PARAM_LIMIT, TAG_LIMIT, SOURCE_LIMIT, DIGEST_LIMIT = 250, 6000, 5000, 60_000, 36
"""Most characters of names and values in MLflow."""


def run_status(record: Record) -> str:
    """Return MLflow's status for a record."""
    return "FINISHED" if record.status == "done" else "FAILED"


def time_span(record: Record) -> tuple[int | None, int | None]:
    """Return when the cell began and ended, in ms since 1970; None if the record does not say."""
    if not record.finished:
        return None, None
    finished = datetime.fromisoformat(record.finished)
    end = finished if finished.tzinfo else finished.replace(tzinfo=UTC)
    return round((end.timestamp() - record.own_seconds) * 1000), round(end.timestamp() * 1000)


def dataset_inputs(record: Record) -> "list[DatasetInput]":
    """Return the data that the victim was trained on and the poison in it; nothing if they are unknown."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def describe_input(axis: str, digest: str, context: str, profile: Mapping[str, Any]) -> DatasetInput:
        dataset = Dataset(
            name=truncate(str(record.cell[axis]), NAME_LIMIT),
            digest=truncate(digest, DIGEST_LIMIT),
            source_type="mtlue",
            source=truncate(json.dumps(record.settings.get(axis)), SOURCE_LIMIT),
            profile=json.dumps(profile),
        )
        return DatasetInput(dataset, [InputTag(CONTEXT_TAG, context)])

    if record.status == "failed" or "data" not in record.environment:
        return []
    inputs = [describe_input("dataset", record.environment["data"], "training", {"tasks": record.tasks})]
    if not is_clean(str(record.cell["attack"])):
        inputs.append(describe_input("attack", record.poison, "poison", record.noise))
    return inputs


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
    values = {**dict(_flatten_settings(record.settings)), **record.cell}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }
    return {safe_name(name): truncate(text, PARAM_LIMIT) for name, text in texts.items()}


def _flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def record_metrics(record: Record) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) of every number of a record that is not None.

    MLflow shows names with the same text before the last slash in one section of charts.
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
        yield from ((f"{metric}/{task}", value, step) for metric, task, value in _by_task(point["scores"]))
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


@cache
def safe_name(text: str) -> str:
    """Return the text if MLflow accepts it as a name, else a similar name with a digest."""
    plain = re.sub(r"[^\w\-. /:]", "_", text)
    plain = "/".join(piece if piece.strip(".") else "_" for piece in plain.split("/"))
    if plain == text and len(text) <= NAME_LIMIT:
        return text
    return f"{plain[: NAME_LIMIT - 9]}-{hash_json(text)[:8]}"


def truncate(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
