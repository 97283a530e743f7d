"""Convert a record to the parameters, metrics, tags and inputs of an MLflow run, within MLflow's limits."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.engine.tracking.record_values import (
    LogNumber,
    record_numbers,
    record_params,
    record_tags,
    truncate,
)
from bench.files import hash_json
from bench.record import Record, is_clean

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

KEY_TAG, CHECKSUM_TAG = "mtlue.key", "mtlue.checksum"
"""Tags of a cell's run: the key of the record and the checksum of its content. The status of a run is set
last: a run with the right status is complete."""

SUITE_TAG, ATTACK_TAG = "mtlue.suite", "mtlue.attack"
"""Tags of the runs that are no cells: the run of a suite has the first one, that of an attack both. The
checksum of a suite's run is that of its artifacts."""

PARENT_TAG, CONTEXT_TAG, KIND_TAG = "mlflow.parentRunId", "mlflow.data.context", "mlflow.experimentKind"
"""Tags defined by MLflow: the run a run is nested in, the use of an input, the kind of an experiment."""

NAME_LIMIT, PARAM_LIMIT, TAG_LIMIT, SOURCE_LIMIT, DIGEST_LIMIT = 250, 6000, 5000, 60_000, 36
"""Most characters of names and values in MLflow."""


def run_status(record: Record) -> str:
    """Return MLflow's status for a record."""
    return "FINISHED" if record.status == "done" else "FAILED"


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


def run_tags(record: Record) -> dict[str, str]:
    """Return the tags of a record's run."""
    tags = record_tags(record) | {KEY_TAG: record.key}
    return {safe_name(name): truncate(value, TAG_LIMIT) for name, value in tags.items()}


def run_params(record: Record) -> dict[str, str]:
    """Return the parameters of a record's run."""
    return {safe_name(name): truncate(text, PARAM_LIMIT) for name, text in record_params(record).items()}


def run_metrics(record: Record) -> Iterator[LogNumber]:
    """Yield the metrics of a record's run."""
    return ((safe_name(name), value, step) for name, value, step in record_numbers(record))


@cache
def safe_name(text: str) -> str:
    """Return the text if MLflow accepts it as a name, else a similar name with a digest."""
    plain = re.sub(r"[^\w\-. /:]", "_", text)
    plain = "/".join(piece if piece.strip(".") else "_" for piece in plain.split("/"))
    if plain == text and len(text) <= NAME_LIMIT:
        return text
    return f"{plain[: NAME_LIMIT - 9]}-{hash_json(text)[:8]}"
