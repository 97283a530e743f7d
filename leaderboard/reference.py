"""A committed reference of a suite's numbers, and what has changed since."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pandas import DataFrame

from bench.errors import BenchError
from bench.files import hash_json, require_file, write_output
from bench.record import AXES, Record, is_clean
from leaderboard.formatting import NO_VALUE, format_number, markdown_table
from leaderboard.frame import select_records, to_frame
from leaderboard.scores import relative_scores
from leaderboard.statistics import mean_over_seeds, seed_spread

REFERENCE_SCHEMA = 1
"""Version of the reference file's layout."""

_FIELDS = {"suite", "protocol", "environment", "cells"}

CELL = tuple(axis for axis in AXES if axis != "seed")
"""The axes that identify a cell of a reference; its seeds are averaged."""

SCORE_TOLERANCE = 0.08
"""Smallest change of a relative score that counts.

Another CPU adds numbers in another order, and a short training then takes another path. That changes a score
as another seed would, by a few hundredths. A broken attack or training loop changes it by tenths.
"""

MIN_RELATIVE_SCORE = -1.0
"""Relative scores below this value are raised to it.

Accuracies and AUROC cannot fall below it, but an error has no upper bound: the mean over the tasks would
change from run to run with the wild answers of a misled victim.
"""

MIN_SPREADS = 3.0
"""A change of a score must also exceed this number of standard deviations over the reference's seeds."""

TIME_FACTOR, TIME_MARGIN_S = 4.0, 5.0
"""Seconds regress if they exceed both this multiple and this margin: machines and start-up differ."""

MEMORY_FACTOR, MEMORY_MARGIN_MB = 2.0, 200.0
"""Memory regresses if it exceeds both this multiple and this margin: libraries alone differ by 100 MiB."""

COST_COLUMNS = ("craft_s", "train_s", "peak_host_mb")

Verdict = Literal["ok", "regressed", "improved", "missing", "new", "failed"]

FAILING_VERDICTS: frozenset[Verdict] = frozenset({"regressed", "missing", "failed"})
"""Verdicts that make a check fail."""


@dataclass(frozen=True)
class Change:
    """One number of one cell, in the reference and now.

    Attributes:
        cell: labels of the cell, without the seed.
        quantity: ``score``, a cost, a task, or ``cell`` for the cell as a whole.
        reference: value in the reference; a score is relative, see `leaderboard.scores.relative_scores`.
        now: current value.
        tolerance: the largest change that is accepted.
        verdict: the check fails if it is one of `FAILING_VERDICTS`.
    """

    cell: str
    quantity: str
    reference: float | None
    now: float | None
    tolerance: float | None
    verdict: Verdict

    @property
    def fails(self) -> bool:
        """Whether this makes the check fail."""
        return self.verdict in FAILING_VERDICTS


def summarize_records(records: Iterable[Record]) -> dict[str, Any]:
    """Return a suite's reference numbers as JSON values.

    Per cell (seeds averaged): per task the mean and spread over seeds of the scored metric; ``score``, the
    mean over tasks of the relative score (at least `MIN_RELATIVE_SCORE`); its ``spread`` over seeds (null
    with one seed); and the mean costs in seconds and MiB.

    Raises:
        BenchError: if there is no finished record, if one failed, or if there is more than one protocol.
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
        "cells": _summarize_cells(to_frame(selected.done)),
    }


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
        found = content.get("schema")
        raise BenchError(f"{path} has schema {found}, this version reads schema {REFERENCE_SCHEMA}")
    reference: dict[str, Any] = content["reference"]
    try:
        is_intact = content.get("checksum") == hash_json(reference)
    except ValueError:  # a number that is not finite
        is_intact = False
    if not is_intact or not set(reference) >= _FIELDS:
        raise BenchError(f"the reference {path} is damaged: its checksum does not match")
    return reference


def check_against_reference(reference: Mapping[str, Any], records: Iterable[Record]) -> list[Change]:
    """Compare records with a reference, number by number, sorted by cell.

    A clean score regresses if it falls. Any other score regresses if it rises: the victim learns more, so the
    attack protects less. Only changes of more than `SCORE_TOLERANCE` and `MIN_SPREADS` spreads count; those
    in the other direction have improved. Costs regress if they exceed both margins, and are compared only on
    the same kind of device. A cell or task of the reference that is missing or failed makes the check fail; a
    new one does not.

    Raises:
        BenchError: if the records follow another protocol than the reference.
    """
    selected = select_records(records)
    for record in selected.done[:1]:
        if record.protocol != reference["protocol"]:
            raise BenchError(
                f"the reference follows protocol {reference['protocol']} and the records protocol "
                f"{record.protocol}, which cannot be compared; make the reference anew with --update"
            )
    then = {_cell_label(cell): cell for cell in reference["cells"]}
    now = {_cell_label(cell): cell for cell in _summarize_cells(to_frame(selected.done))}
    failed = {_cell_label(record.cell) for record in selected.failed}
    devices = {record.environment.get("device") for record in selected.done}
    same_device = devices == {reference["environment"].get("device")}
    changes: list[Change] = []
    for cell in sorted({*then, *now, *failed}):
        if cell in failed:
            changes.append(Change(cell, "cell", None, None, None, "failed"))
        elif cell not in now:
            changes.append(Change(cell, "cell", None, None, None, "missing"))
        elif cell not in then:
            changes.append(Change(cell, "cell", None, None, None, "new"))
        else:
            changes += _compare_scores(cell, then[cell], now[cell])
            changes += _compare_costs(cell, then[cell], now[cell]) if same_device else []
    return changes


def render_changes(changes: Iterable[Change]) -> str:
    """Return the numbers that changed as a markdown table, or a sentence that none did."""
    changes = list(changes)
    rows = [
        {
            "cell": change.cell,
            "what": change.quantity,
            "reference": format_number(change.reference),
            "now": format_number(change.now),
            "tolerance": _format_tolerance(change),
            "verdict": change.verdict,
        }
        for change in changes
        if change.verdict != "ok"
    ]
    if not rows:
        return f"No changes: {len(changes)} numbers are as in the reference.\n"
    same = len(changes) - len(rows)
    return f"{markdown_table(rows)}\n\n{len(rows)} changed, {same} as in the reference.\n"


def _format_tolerance(change: Change) -> str:
    if change.tolerance is None:
        return NO_VALUE
    # A score may change in both directions, a cost only has an upper limit.
    return f"{'±' if change.quantity == 'score' else '+'}{format_number(change.tolerance)}"


def _summarize_cells(frame: DataFrame) -> list[dict[str, Any]]:
    frame = frame.assign(learned=relative_scores(frame).clip(lower=MIN_RELATIVE_SCORE))
    groups = frame.groupby(list(CELL))
    return [dict(zip(CELL, map(str, labels), strict=True)) | _summarize_cell(rows) for labels, rows in groups]


def _summarize_cell(rows: DataFrame) -> dict[str, Any]:
    means = rows.groupby("key").agg({"learned": "mean", "seed": "first"})
    cells = rows.drop_duplicates("key")
    return {
        "seeds": sorted(int(seed) for seed in cells["seed"]),
        "score": _round(mean_over_seeds(means["learned"], means["seed"])),
        "spread": _round(seed_spread(means["learned"], means["seed"])),
        "tasks": {
            str(task): _summarize_task(group) for (_, task), group in rows.groupby(["position", "task"])
        },
        "cost": {column: _round(cells[column].mean()) for column in COST_COLUMNS},
    }


def _summarize_task(rows: DataFrame) -> dict[str, Any]:
    return {
        "scored": rows["scored"].iloc[0],
        "mean": _round(rows["score"].mean()),
        "spread": _round(seed_spread(rows["score"], rows["seed"])),
        "learned": _round(rows["learned"].mean()),
    }


def _round(value: float | None) -> float | None:
    # Six decimals are far below any tolerance and keep the committed file readable.
    return None if value is None or math.isnan(value) else round(float(value), 6)


def _cell_label(cell: Mapping[str, Any]) -> str:
    return " · ".join(str(cell[axis]) for axis in CELL)


def _compare_scores(cell: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    before, after = (
        {
            task: summary["learned"]
            for task, summary in side["tasks"].items()
            if summary["learned"] is not None
        }
        for side in (then, now)
    )
    changes = [
        Change(cell, f"task {task}", score, None, None, "missing")
        for task, score in before.items()
        if task not in after
    ]
    shared = [task for task in before if task in after]
    if not shared:
        return changes
    old, new = (sum(side[task] for task in shared) / len(shared) for side in (before, after))
    tolerance = max(SCORE_TOLERANCE, MIN_SPREADS * (then["spread"] or 0.0))
    gain = new - old if is_clean(then["attack"]) else old - new
    verdict: Verdict = "regressed" if gain < -tolerance else "improved" if gain > tolerance else "ok"
    return [*changes, Change(cell, "score", old, new, tolerance, verdict)]


def _compare_costs(cell: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    changes = []
    for cost in COST_COLUMNS:
        old, new = then["cost"].get(cost), now["cost"].get(cost)
        if old is None or new is None:
            continue
        is_time = cost.endswith("_s")
        factor, margin = (TIME_FACTOR, TIME_MARGIN_S) if is_time else (MEMORY_FACTOR, MEMORY_MARGIN_MB)
        tolerance = max((factor - 1) * old, margin)
        changes.append(
            Change(cell, cost, old, new, tolerance, "regressed" if new - old > tolerance else "ok")
        )
    return changes
