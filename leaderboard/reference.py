"""A committed reference of a suite's numbers, and what has moved since."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pandas import DataFrame

from bench.errors import BenchError
from bench.files import hash_json, write_atomically
from bench.record import AXES, Record
from leaderboard.formatting import NO_VALUE, format_number, markdown_table
from leaderboard.frame import select_records, to_frame
from leaderboard.scores import is_clean
from leaderboard.statistics import seed_means, seed_spread

REFERENCE_SCHEMA = 1
"""Version of the reference file's layout."""

_FIELDS = {"suite", "protocol", "environment", "cells"}

CELL = tuple(axis for axis in AXES if axis != "seed")
"""What names a cell of a reference: its seeds are averaged."""

SCORE_TOLERANCE = 0.08
"""Least move of a score that counts, as part of the way from floor to perfect.

Another CPU adds up in another order, after which a short training takes another path: that moves a score as
another seed would, by a few hundredths. An attack or a training loop that broke moves it by tenths.
"""

LEAST_LEARNED = -1.0
"""Least part of the way from floor to perfect that is told apart.

Accuracies and AUROC cannot fall below it, but an error can grow without end: how wild a misled victim's
guesses are would move the mean over the tasks from run to run.
"""

SPREADS = 3.0
"""A move also has to exceed so many standard deviations over the reference's seeds."""

SLOWER, SLOWER_S = 4.0, 5.0
"""Seconds regress beyond this multiple and this many more: machines differ, short phases are start-up."""

LARGER, LARGER_MB = 2.0, 200.0
"""Memory regresses beyond this multiple and this many MiB more: libraries alone differ by a hundred."""

COST_COLUMNS = ("craft_s", "train_s", "peak_host_mb")

Verdict = Literal["ok", "regressed", "improved", "missing", "new", "failed"]

BAD: frozenset[Verdict] = frozenset({"regressed", "missing", "failed"})
"""Verdicts that fail a check."""


@dataclass(frozen=True)
class Move:
    """One number of one cell, then and now.

    Attributes:
        cell: labels of the cell, the seed apart.
        what: ``score``, a cost, a task, or ``cell`` for the cell as a whole.
        reference: value in the reference; a score is the part of the way from floor to perfect.
        now: value now.
        tolerance: how far it may move.
        verdict: what that means; those in `BAD` fail the check.
    """

    cell: str
    what: str
    reference: float | None
    now: float | None
    tolerance: float | None
    verdict: Verdict

    @property
    def is_bad(self) -> bool:
        """Whether this fails the check."""
        return self.verdict in BAD


def summarize_records(records: Iterable[Record]) -> dict[str, Any]:
    """Return a suite's reference numbers as JSON values.

    Per cell (seeds averaged): per task the mean and spread over seeds of the scored metric, ``score``, the
    mean over tasks of the part of the way from floor to perfect (at least `LEAST_LEARNED`), its ``spread``
    over seeds (null with one), and the mean costs in seconds and MiB.

    Raises:
        BenchError: when there is no finished record, when one failed, or for more than one protocol.
    """
    chosen = select_records(records)
    if chosen.failed:
        raise BenchError(f"a reference needs every cell, and this one failed: {chosen.failed[0].label}")
    if not chosen.done:
        raise BenchError("a reference needs at least one finished cell, and there is none")
    return {
        "suite": ", ".join(sorted({record.suite for record in chosen.done})),
        "protocol": chosen.done[0].protocol,
        "environment": chosen.done[0].environment,
        "cells": _summaries(to_frame(chosen.done)),
    }


def write_reference(path: Path, reference: Mapping[str, Any]) -> None:
    """Write a reference from `summarize_records`, aside and then renamed.

    Raises:
        BenchError: when the file cannot be written.
    """
    content = {"schema": REFERENCE_SCHEMA, "checksum": hash_json(reference), "reference": reference}
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_reference(path: Path) -> dict[str, Any]:
    """Read a reference.

    Raises:
        BenchError: when the file is absent, damaged, altered, of another schema or no reference.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read the reference {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchError(f"the reference {path} is damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("reference"), dict):
        raise BenchError(f"{path} is not a reference")
    if content.get("schema") != REFERENCE_SCHEMA:
        found = content.get("schema")
        raise BenchError(f"{path} has schema {found}, this version reads schema {REFERENCE_SCHEMA}")
    reference: dict[str, Any] = content["reference"]
    if content.get("checksum") != hash_json(reference) or not set(reference) >= _FIELDS:
        raise BenchError(f"the reference {path} is damaged: it is not what was written")
    return reference


def check_against_reference(reference: Mapping[str, Any], records: Iterable[Record]) -> list[Move]:
    """Compare records with a reference, number by number, in the order of the cells.

    A clean score regresses when it falls, any other when it rises (the victim learns more, so the attack
    protects less), by more than `SCORE_TOLERANCE` and `SPREADS` spreads; the same the other way round has
    improved. Costs regress when they exceed both margins, and are compared on the same kind of device alone.
    A cell or task of the reference that is missing or failed counts as a regression, a new one does not.

    Raises:
        BenchError: when the records follow another protocol than the reference.
    """
    chosen = select_records(records)
    for record in chosen.done[:1]:
        if record.protocol != reference["protocol"]:
            raise BenchError(
                f"the reference follows protocol {reference['protocol']} and the records protocol "
                f"{record.protocol}; they cannot be compared"
            )
    then = {_name(cell): cell for cell in reference["cells"]}
    now = {_name(cell): cell for cell in _summaries(to_frame(chosen.done))}
    failed = {_name(record.cell) for record in chosen.failed}
    devices = {record.environment.get("device") for record in chosen.done}
    same_device = devices == {reference["environment"].get("device")}
    moves: list[Move] = []
    for name in sorted({*then, *now, *failed}):
        if name in failed:
            moves.append(Move(name, "cell", None, None, None, "failed"))
        elif name not in now:
            moves.append(Move(name, "cell", None, None, None, "missing"))
        elif name not in then:
            moves.append(Move(name, "cell", None, None, None, "new"))
        else:
            moves += _tasks(name, then[name], now[name])
            moves += _score(name, then[name], now[name])
            moves += _costs(name, then[name], now[name]) if same_device else []
    return moves


def render_moves(moves: Iterable[Move]) -> str:
    """Return what moved as a markdown table, or that nothing did."""
    moves = list(moves)
    moved = [move for move in moves if move.verdict != "ok"]
    if not moved:
        return f"Nothing moved: {len(moves)} numbers are as in the reference.\n"
    rows = [
        {
            "cell": move.cell,
            "what": move.what,
            "reference": format_number(move.reference),
            "now": format_number(move.now),
            "tolerance": _tolerance(move),
            "verdict": move.verdict,
        }
        for move in moved
    ]
    return f"{markdown_table(rows)}\n\n{len(moved)} moved, {len(moves) - len(moved)} as in the reference.\n"


def _tolerance(move: Move) -> str:
    if move.tolerance is None:
        return NO_VALUE
    # A score may move either way, a cost only has a limit above.
    return f"{'±' if move.what == 'score' else '+'}{format_number(move.tolerance)}"


def _summaries(frame: DataFrame) -> list[dict[str, Any]]:
    width = (frame["perfect"] - frame["floor"]).where(lambda width: width != 0)
    learned = (frame["score"] - frame["floor"]) / width
    frame = frame.assign(learned=learned.clip(lower=LEAST_LEARNED))
    groups = frame.groupby(list(CELL))
    return [dict(zip(CELL, map(str, labels), strict=True)) | _summary(rows) for labels, rows in groups]


def _summary(rows: DataFrame) -> dict[str, Any]:
    cells = rows.groupby("key").agg({"learned": "mean", "seed": "first"})
    once = rows.drop_duplicates("key")
    means = [_task_summary(task) for _, task in rows.groupby(["position", "task"])]
    per_seed = seed_means(cells["learned"], cells["seed"])
    return {
        "seeds": sorted(int(seed) for seed in once["seed"]),
        "score": _json(float(np.mean(per_seed))) if per_seed else None,
        "spread": _json(seed_spread(cells["learned"], cells["seed"])),
        "tasks": dict(means),
        "cost": {column: _json(once[column].mean()) for column in COST_COLUMNS},
    }


def _task_summary(rows: DataFrame) -> tuple[str, dict[str, Any]]:
    return str(rows["task"].iloc[0]), {
        "scored": rows["scored"].iloc[0],
        "mean": _json(rows["score"].mean()),
        "spread": _json(seed_spread(rows["score"], rows["seed"])),
        "learned": _json(rows["learned"].mean()),
    }


def _json(value: float | None) -> float | None:
    # Six decimals are far below any tolerance and keep the committed file readable.
    return None if value is None or math.isnan(value) else round(float(value), 6)


def _name(cell: Mapping[str, Any]) -> str:
    return " · ".join(str(cell[axis]) for axis in CELL)


def _shared(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        task
        for task, summary in then["tasks"].items()
        if summary["learned"] is not None and now["tasks"].get(task, {}).get("learned") is not None
    ]


def _tasks(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Move]:
    shared = _shared(then, now)
    lost = [task for task, s in then["tasks"].items() if s["learned"] is not None and task not in shared]
    return [
        Move(name, f"task {task}", then["tasks"][task]["learned"], None, None, "missing") for task in lost
    ]


def _score(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Move]:
    shared = _shared(then, now)
    if not shared:
        return []
    before, after = (
        sum(cell["tasks"][task]["learned"] for task in shared) / len(shared) for cell in (then, now)
    )
    tolerance = max(SCORE_TOLERANCE, SPREADS * (then["spread"] or 0.0))
    gain = after - before if is_clean(then["attack"]) else before - after
    verdict: Verdict = "regressed" if gain < -tolerance else "improved" if gain > tolerance else "ok"
    return [Move(name, "score", before, after, tolerance, verdict)]


def _costs(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Move]:
    return [
        _cost(name, what, then["cost"][what], now["cost"][what])
        for what in COST_COLUMNS
        if then["cost"].get(what) is not None and now["cost"].get(what) is not None
    ]


def _cost(name: str, what: str, before: float, after: float) -> Move:
    factor, margin = (SLOWER, SLOWER_S) if what.endswith("_s") else (LARGER, LARGER_MB)
    tolerance = max((factor - 1) * before, margin)
    return Move(name, what, before, after, tolerance, "regressed" if after - before > tolerance else "ok")
