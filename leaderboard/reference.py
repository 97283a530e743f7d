"""A committed reference of a suite: the numbers of its datasets, poisons and cells, seed by seed."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.errors import BenchError
from bench.files import hash_json, require_file, write_output
from bench.record import AXES, Record, relative_score
from leaderboard.frame import DERIVED, select_records

REFERENCE_SCHEMA = 2
"""Version of the reference file's layout."""

_FIELDS = {"suite", "protocol", "environment", "items"}

CELL = tuple(axis for axis in AXES if axis != "seed")
"""The axes that identify a cell of a reference; its seeds are kept apart."""

MIN_SKILL = -1.0
"""Relative scores below this value are raised to it.

Accuracies and AUROC cannot fall below it, but an error has no upper bound: the mean over the tasks would
change from run to run with the wild answers of a misled victim.
"""

SECONDS, MEMORY = ("craft_s", "train_s"), ("peak_host_mb",)
COSTS = SECONDS + MEMORY
"""Quantities that depend on the machine: compared as ratios."""

NOISE = ("linf", "l2", "ssim", "surrogate_loss", "hit_rate")
TASK_NOISE = ("intra_spread", "inter_distance", "linear_balanced_accuracy")
"""Measures of a poison and of its tasks. Left out are shares of values, such as those that rounding changes.

They are constant for most attacks and vary for a few, so that a spread over attacks says nothing of them.
"""

Numbers = dict[str, float | None]
"""Quantity → value."""


def summarize_records(records: Iterable[Record]) -> dict[str, Any]:
    """Return a suite's reference as JSON values.

    Its ``items`` are datasets, poisons and cells: label → ``dataset``, ``attack`` (empty for a dataset), and
    seed → quantity → value, see `item_numbers`.

    Raises:
        BenchError: if there is no finished record, or if one failed.
    """
    selected = select_records(records)
    if selected.failed:
        raise BenchError(f"a reference needs every cell, and this one failed: {selected.failed[0].label}")
    if not selected.done:
        raise BenchError("a reference needs at least one finished cell, and there is none")
    return {
        "suite": ", ".join(sorted({record.suite for record in selected.done})),
        "protocol": selected.done[0].protocol,
        "environment": selected.done[0].environment,
        "items": collect_items(selected.done),
    }


def collect_items(records: Iterable[Record]) -> dict[str, Any]:
    """Return the items of finished records, as in `summarize_records`."""
    items: dict[str, Any] = defaultdict(lambda: {"seeds": {}})
    for record in records:
        dataset, attack, seed = (str(record.cell[axis]) for axis in ("dataset", "attack", "seed"))
        for label, name, numbers in (
            (dataset, "", _dataset_numbers(record)),
            (f"{dataset} · {attack}", attack, _poison_numbers(record)),
            (cell_label(record), attack, _cell_numbers(record)),
        ):
            items[label] |= {"dataset": dataset, "attack": name}
            items[label]["seeds"].setdefault(seed, {q: _round(value) for q, value in numbers.items()})
    return dict(sorted(items.items()))


def cell_label(record: Record) -> str:
    """Return the cell of a record without its seed, in one line."""
    return " · ".join(str(record.cell[axis]) for axis in CELL)


def _dataset_numbers(record: Record) -> Numbers:
    """Return the test labels, the floors and the perfect scores of all tasks."""
    numbers: Numbers = {}
    for task, info in _tasks(record):
        numbers[f"{task} test labels"] = info["test"]
        for metric in info["perfect"]:
            numbers[f"{task} {metric} floor"] = info["floor"].get(metric)
            numbers[f"{task} {metric} perfect"] = info["perfect"][metric]
    return numbers


def _poison_numbers(record: Record) -> Numbers:
    """Return the measures of the released noise, and the seconds of crafting."""
    noise: Mapping[str, Any] = record.noise
    by_task: Mapping[str, Mapping[str, Any]] = noise.get("tasks", {})
    return {
        **{name: noise.get(name) for name in NOISE},
        **{f"{task} {name}": found.get(name) for task, found in by_task.items() for name in TASK_NOISE},
        "craft_s": record.cost["craft"]["seconds"] if "craft" in record.cost else None,
    }


def _cell_numbers(record: Record) -> Numbers:
    """Return every metric, the mean relative score over the tasks, and the costs of a cell."""
    found = [
        relative_score(info, record.scores.get(task, {}).get(info["scored"]))
        for task, info in record.tasks.items()
    ]
    skills = [max(skill, MIN_SKILL) for skill in found if skill is not None]
    scores = {
        f"{task} {metric}": record.scores.get(source, {}).get(metric)
        for (task, info), source in zip(_tasks(record), record.tasks, strict=True)
        for metric in info["perfect"]
    }
    peaks = [cost["peak_host_mb"] for cost in record.cost.values() if cost["peak_host_mb"] is not None]
    return {
        "score": fmean(skills) if skills else None,
        **scores,
        "train_s": record.cost["train"]["seconds"] if "train" in record.cost else None,
        "peak_host_mb": max(peaks, default=None),
    }


def _tasks(record: Record) -> Iterator[tuple[str, Any]]:
    # A truth that was derived from another task's is another task.
    for task, info in record.tasks.items():
        yield f"{task}{DERIVED}" if info.get("derived") else task, info


def _round(value: float | None) -> float | None:
    # Six decimals are far below any tolerance and keep the committed file readable.
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def write_reference(path: Path, reference: Mapping[str, Any]) -> None:
    """Write a reference from `summarize_records`.

    Raises:
        BenchError: if the file cannot be written.
    """
    content = {"schema": REFERENCE_SCHEMA, "checksum": hash_json(reference), "reference": reference}
    write_output(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False))


def read_reference(path: Path) -> dict[str, Any]:
    """Read a reference.

    Raises:
        BenchError: if the file is absent, damaged, altered, of another schema or not a reference.
    """
    try:
        content = json.loads(require_file(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read the reference {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"the reference {path} is damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("reference"), dict):
        raise BenchError(f"{path} is not a reference")
    if content.get("schema") != REFERENCE_SCHEMA:
        raise BenchError(
            f"{path} has schema {content.get('schema')}, this version reads schema {REFERENCE_SCHEMA}; "
            f"`bench check --against {path} --update` writes it again from a run"
        )
    reference: dict[str, Any] = content["reference"]
    try:
        is_intact = content.get("checksum") == hash_json(reference)
    except ValueError:  # a number that is not finite
        is_intact = False
    if not is_intact or not set(reference) >= _FIELDS:
        raise BenchError(f"the reference {path} is damaged: its checksum does not match")
    return reference
