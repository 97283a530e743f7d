"""The protection that a mirror shows is that of the board, however the mirror was made."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.cli.run_outputs import ATTACK_NUMBERS, RunResults, collect_board
from bench.engine.execution.events import ItemFinished, RunFinished, RunStarted
from bench.engine.tracking.listener import rebuild_mirror
from bench.engine.tracking.record_to_mlflow import KEY_TAG
from bench.engine.tracking.sink import TrackedBoard
from bench.record import Record, write_record
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_attacks
from tests.engine.tracking.mirror import all_runs, make_tracker, mlflow
from tests.records import make_record, matrix

# MLflow's own use of SQLAlchemy; warned about once, when the first store is opened.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")


def of_suite(suite: str, records: Sequence[Record]) -> list[Record]:
    return [dataclasses.replace(record, suite=suite) for record in records]


def run(uri: str, out: Path, new: Sequence[Record], cached: int = 0, *, ends: bool = True) -> None:
    """Tell what a run of these records would, and write them as it would."""
    suite = new[0].suite
    with make_tracker(uri, suite, None, pytest.fail) as tracker:
        tracker(RunStarted(suite, str(out), {"cells": (len(new), cached)}))
        for record in new:
            write_record(out / "records", record)
            tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
        tracker(RunFinished(len(new) if ends else 0, cached, 0, 1.0))
    if ends:
        everything = read_all(out)
        tracker.finish_suite(everything, lambda: board_of(everything))


def board_of(records: Sequence[Record]) -> TrackedBoard:
    return collect_board(RunResults(Path("nowhere"), records), {})


def read_all(out: Path) -> list[Record]:
    from bench.record import read_records

    return [record for record in read_records(out / "records") if isinstance(record, Record)]


def metrics(uri: str, suite: str) -> dict[str, dict[str, float]]:
    """Return what the runs of a suite show, by the key of the record, or the name of an attack or a suite."""
    return {
        run.data.tags.get(KEY_TAG) or run.info.run_name: {
            name: value for name, value in run.data.metrics.items() if not math.isnan(value)
        }
        for run in all_runs(uri, suite)
    }


def protections(uri: str, record: Record) -> dict[str, float]:
    shown = metrics(uri, record.suite)[record.key]
    return {name: value for name, value in shown.items() if name.startswith("protection")}


def test_a_cell_shows_its_protection_as_soon_as_its_clean_counterpart_is_there(
    uri: str, tmp_path: Path
) -> None:
    em, clean, tap = of_suite(
        "soon",
        [
            make_record({"a": 0.7, "b": 0.5}, attack="em"),
            make_record({"a": 0.9, "b": 0.9}, attack="clean"),
            make_record({"a": 0.5, "b": 0.9}, attack="tap"),
        ],
    )
    run(uri, tmp_path, [em], ends=False)
    assert protections(uri, em) == {}
    run(uri, tmp_path, [clean, tap], cached=1, ends=False)
    half = {"protection": 0.75, "protection/a": 0.5, "protection/b": 1.0}
    assert protections(uri, em) == pytest.approx(half)
    assert protections(uri, tap) == pytest.approx(
        half | {"protection": 0.5, "protection/a": 1.0, "protection/b": 0.0}
    )
    assert protections(uri, clean) == pytest.approx(
        {"protection": 0.0, "protection/a": 0.0, "protection/b": 0.0}
    )


SEEDS: dict[str, dict[str, list[float]]] = {
    "clean": {"none": [0.0, 0.1, 0.05], "mixup": [-0.1, -0.1, -0.2]},
    "em": {"none": [0.9, 0.8, 0.7], "mixup": [0.1, 0.3, 0.2]},
    "tap": {"none": [0.99, 0.98, 0.9]},
}


def test_mirrors_made_live_in_pieces_and_from_the_records_are_equal_and_as_the_board(
    uri: str, tmp_path: Path
) -> None:
    records = of_suite("pieces", matrix(SEEDS))
    # The clean cells and those of the later seeds come last: nearly every protection changes afterwards.
    records.sort(key=lambda record: (record.cell["attack"] == "clean", record.cell["seed"]))
    run(uri, tmp_path, records[:6], ends=False)
    run(uri, tmp_path, records[6:11], cached=6, ends=False)
    run(uri, tmp_path, records[11:], cached=11)
    live = metrics(uri, "pieces")

    frame = to_frame(records)
    for key, mean in frame.groupby("key")["protection"].mean().items():
        assert live[str(key)]["protection"] == pytest.approx(mean)
    for row in rank_attacks(frame).query("attack != 'clean'").itertuples():
        line: Any = {
            ATTACK_NUMBERS[name]: getattr(row, name) for name in ("protection", "low", "high", "undefended")
        }
        line = {name: pytest.approx(value) for name, value in line.items() if not math.isnan(value)}
        shown = live[str(row.attack)]
        assert {name: shown[f"board/{name}"] for name in line} == line
        assert {name: live["pieces"][f"by_attack/{row.attack}.{name}"] for name in line} == line
    assert live["pieces"]["cells/done"] == len(records)
    assert "board/protection" not in live["clean"]

    board = board_of(records)
    assert rebuild_mirror(mlflow(uri), records, board)["kept"] == len(records)
    assert metrics(uri, "pieces") == live

    renamed = of_suite("from records", records)
    rebuild_mirror(mlflow(uri), renamed, board_of(renamed))
    fresh = metrics(uri, "from records")
    assert fresh | {"pieces": fresh.pop("from records")} == live


def test_attacks_of_other_tracks_have_charts_of_their_own() -> None:
    records = [
        make_record({"a": 0.9}, attack="clean"),
        make_record({"a": 0.7}, attack="em"),
        make_record({"a": 0.5}, attack="cuda", bounded=False),
    ]
    board = board_of(records)
    assert board.attack_numbers("em")["board/protection"] == pytest.approx(0.5)
    assert {name.split("/")[0] for name in board.attack_numbers("cuda")} == {"board_unbounded"}
    assert board.attack_numbers("clean") == {}


def test_the_protection_of_a_cell_that_was_run_anew_with_other_settings_is_shown_no_more(
    uri: str, tmp_path: Path
) -> None:
    clean, old, new = of_suite(
        "anew",
        [
            make_record({"a": 0.9}, attack="clean"),
            make_record({"a": 0.6}, changes={"finished": "2026-01-01T00:00:00+00:00", "key": "0" * 16}),
            make_record({"a": 0.7}),
        ],
    )
    run(uri, tmp_path, [clean, old])
    assert protections(uri, old) == pytest.approx({"protection": 0.75, "protection/a": 0.75})
    run(uri, tmp_path, [new], cached=1)
    assert protections(uri, old) == {}
    assert protections(uri, new) == pytest.approx({"protection": 0.5, "protection/a": 0.5})
