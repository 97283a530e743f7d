"""The records in TensorBoard and W&B, without a network."""

import dataclasses
import importlib.util
import json
import math
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.engine.execution.events import ItemFinished, RunStarted
from bench.engine.tracking.destinations import find_destinations
from bench.engine.tracking.listener import Tracker, rebuild_mirror
from bench.engine.tracking.sink import TrackedBoard
from bench.errors import BenchError
from bench.record import Record
from leaderboard.cell_protection import CellProtections
from tests.engine.tracking.mirror import make_failed, make_record
from tests.records import make_record as make_scored

PROTECTIONS = {"a1": {"age": 0.25, "skin: tone?": 0.75}}

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301"
    "0100c9fe92ef0000000049454e44ae426082"
)
"""A PNG of one pixel."""

BOARD = TrackedBoard(
    files={"leaderboard.md": b"# Board <script>", "figures/one.png": PICTURE, "leaderboard.csv": b"a"},
    attacks={"em": {"protection": 0.5, "low": 0.25}, "../tap": {"protection": 0.75}},
    cells=PROTECTIONS,
)

HOSTILE = "../../é/\x1b[2J" + "x" * 300


def track(name: str, out: Path, records: list[Record], board: TrackedBoard = BOARD) -> dict[str, int]:
    [destination] = find_destinations([name], out)
    return dict(rebuild_mirror(destination, records, board))


def test_a_tracker_that_is_not_known_or_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        find_destinations(["tensorbord"], tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("bench.engine.tracking.destinations.find_spec", lambda _: None)
    for name, shown in (("tensorboard", "TensorBoard"), ("wandb", "W&B")):
        with pytest.raises(
            BenchError, match=rf"{shown} is not installed; `pip install 'mtlue-bench\[{name}\]'`"
        ):
            find_destinations([name], tmp_path)
    assert [found.name for found in find_destinations(None, tmp_path)] == [
        f"MLflow at sqlite:///{tmp_path}/mlflow.db"
    ]


# -- TensorBoard -------------------------------------------------------------------------------------------


def read_events(out: Path) -> dict[str, Any]:
    """Return what TensorBoard reads of every folder, by its path."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = sorted({file.parent for file in (out / "tensorboard").rglob("events.out.tfevents.*")})
    return {
        str(folder.relative_to(out / "tensorboard")): EventAccumulator(str(folder)).Reload()
        for folder in folders
    }


def scalars(events: Any) -> dict[str, list[tuple[int, float]]]:
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_cells_with_protection_and_the_board(tmp_path: Path) -> None:
    records = [make_record("a1"), make_failed("b2")]
    assert track("tensorboard", tmp_path, records) == {"added": 2}
    shown = read_events(tmp_path)
    (cell,) = (folder for folder in shown if folder.endswith("a1"))
    assert cell == f"smoke/cells/{records[0].label} · a1"
    found = scalars(shown[cell])
    assert found["test/accuracy.age"] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert found["train/loss"] == [(1, 1.0), (3, 1 / 3)]
    assert found["final/accuracy.age"] == [(0, 0.3)]
    assert found["protection"] == [(0, 0.5)]
    assert found["protection/age"] == [(0, 0.25)]
    event = shown[cell].Scalars("test/accuracy.age")[0]
    assert event.wall_time == 1_772_366_400
    settings = shown[cell].Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "attack.version = 2" in settings
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(
        shown[cell].PluginTagToContent("hparams")
    )

    (failed,) = (folder for folder in shown if folder.endswith("b2"))
    assert "error/text_summary" in shown[failed].Tags()["tensors"]
    assert scalars(shown["smoke/board/em"]) == {"board/protection": [(0, 0.5)], "board/low": [(0, 0.25)]}
    suite = shown["smoke"]
    assert scalars(suite) == {"cells/done": [(0, 1.0)], "cells/failed": [(0, 1.0)]}
    assert suite.Tags()["images"] == ["figures/one.png"]
    assert suite.Tensors("leaderboard.md/text_summary")[0].tensor_proto.string_val[0] == b"# Board <script>"


def test_tensorboard_keeps_what_is_shown_and_replaces_what_has_changed(tmp_path: Path) -> None:
    record = make_record("a1")
    assert track("tensorboard", tmp_path, [record], TrackedBoard()) == {"added": 1}
    assert track("tensorboard", tmp_path, [record]) == {"replaced": 1}
    foreign = next((tmp_path / "tensorboard/smoke/cells").iterdir()) / "mine"
    foreign.write_text("mine")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "tensorboard/smoke/cells").rglob("*")}
    assert track("tensorboard", tmp_path, [record]) == {"kept": 1}
    assert before == {
        file: file.stat().st_mtime_ns for file in (tmp_path / "tensorboard/smoke/cells").rglob("*")
    }
    changed = dataclasses.replace(record, noise={"linf": 4.0})
    assert track("tensorboard", tmp_path, [changed]) == {"replaced": 1}
    (cell,) = (events for folder, events in read_events(tmp_path).items() if "cells" in folder)
    assert scalars(cell)["noise/linf"] == [(0, 4.0)]
    assert len(cell.Scalars("protection")) == 1
    assert foreign.read_text() == "mine"


def test_tensorboard_stays_in_its_folder_whatever_things_are_called(tmp_path: Path) -> None:
    out = tmp_path / "run"
    records = [
        make_record(HOSTILE, suite=HOSTILE, cell={**make_record().cell, "attack": HOSTILE}),
        make_record("..", suite=".."),
    ]
    track("tensorboard", out, records, TrackedBoard(attacks={HOSTILE: {"low": 1.0}, "..": {"low": 1.0}}))
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in out.iterdir()} == {"tensorboard"}
    assert len(read_events(out)) == 8


def test_tensorboard_during_a_run_shows_what_is_made_from_the_records(tmp_path: Path) -> None:
    from bench.record import write_record

    em, clean = (
        make_scored({"a": s}, attack=a, changes={"suite": "s"}) for a, s in (("em", 0.7), ("clean", 0.9))
    )
    [destination] = find_destinations(["tensorboard"], tmp_path)
    with Tracker(destination, "s", CellProtections().add, pytest.fail) as tracker:
        tracker(RunStarted("s", str(tmp_path), {"cells": (2, 0)}))
        for record in (em, clean):
            write_record(tmp_path / "records", record)
            tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
    live = {folder: scalars(events) for folder, events in read_events(tmp_path).items()}
    (of_em,) = (found for folder, found in live.items() if "· em ·" in folder)
    assert of_em["protection/a"] == [(0, 0.5)]
    cells = CellProtections([em, clean]).by_cell()
    track("tensorboard", tmp_path / "fresh", [em, clean], TrackedBoard(cells=cells))
    fresh = {folder: scalars(events) for folder, events in read_events(tmp_path / "fresh").items()}
    assert {folder: found for folder, found in fresh.items() if folder != "s"} == live


def test_a_folder_that_tensorboard_cannot_write_to_does_not_fail_the_run(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    messages: list[str] = []
    [destination] = find_destinations(["tensorboard"], tmp_path)
    with Tracker(destination, "smoke", CellProtections().add, messages.append) as tracker:
        for _ in range(2):
            tracker(ItemFinished("cells", "a1", "label", 1.0, make_record("a1")))
    [message] = messages
    assert message.startswith("TensorBoard failed: ")
    assert message.endswith("nothing more is logged. Run `bench track` later to catch up")


# -- W&B ---------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    pytest.importorskip("wandb", reason="W&B is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "run"


def read_log(content: bytes) -> Iterator[bytes]:
    """Yield the messages of an offline run: LevelDB's log format after a header of seven bytes."""
    place, message = 7, b""
    while place + 7 <= len(content):
        if (rest := -place % 32768) < 7:  # the end of a block
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield message
            message = b""


def read_offline(out: Path) -> list[dict[str, Any]]:
    """Return what W&B would send: of every run its name, group, kind, configuration, history and summary."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record as Message

    wandb.teardown()  # all is written then
    found = []
    for file in sorted(
        (out / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    ):
        run: dict[str, Any] = {"history": defaultdict(dict), "summary": {}, "config": {}}
        for data in read_log(file.read_bytes()):
            message = Message.FromString(data)
            kind = message.WhichOneof("record_type")
            if kind == "run":
                run |= {
                    "id": message.run.run_id,
                    "name": message.run.display_name,
                    "group": message.run.run_group,
                }
                run |= {"kind": message.run.job_type, "project": message.run.project}
                run["config"] |= {item.key: json.loads(item.value_json) for item in message.run.config.update}
            elif kind == "history":
                values = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in message.history.item
                }
                run["history"][message.history.step.num] |= {k: v for k, v in values.items() if k[0] != "_"}
            elif kind == "summary":
                items = message.summary.update
                run["summary"] |= {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items
                }
            elif kind == "exit":
                run["exit"] = message.exit.exit_code
        found.append(run)
    return found


def test_wandb_shows_cells_with_protection_and_the_board(wandb_offline: Path) -> None:
    records = [make_record("a1"), make_failed("b2")]
    hooks = sys.exit, sys.excepthook
    assert track("wandb", wandb_offline, records) == {"added": 2}
    assert (sys.exit, sys.excepthook) == hooks, "the command ends the program, and says so itself"
    cell, failed, suite = read_offline(wandb_offline)
    assert (cell["name"], cell["group"], cell["kind"]) == (records[0].label, "smoke", "cell")
    assert cell["project"] == "mtlue-bench"
    assert cell["config"]["attack"] == "em"
    assert cell["config"]["attack.version"] == 2
    assert cell["history"][2]["test/accuracy.age"] == 0.2
    assert cell["history"][3]["train/loss"] == pytest.approx(1 / 3)
    assert cell["summary"]["protection"] == 0.5
    assert cell["summary"]["protection/age"] == 0.25
    assert cell["summary"]["final/accuracy.age"] == 0.3
    assert (cell["exit"], failed["exit"]) == (0, 1)
    assert (suite["name"], suite["kind"]) == ("smoke", "board")
    assert suite["summary"]["by_attack/em.protection"] == 0.5
    assert suite["summary"]["cells/failed"] == 1
    shown = {name for values in suite["history"].values() for name in values}
    assert {"attacks/_type", "figures/one.png/_type"} <= shown

    assert track("wandb", wandb_offline, records) == {"kept": 2}
    assert len(read_offline(wandb_offline)) == 3
    later = dataclasses.replace(BOARD, cells={"a1": {"age": 0.5}})
    assert track("wandb", wandb_offline, records, later) == {"replaced": 1, "kept": 1}
    again = read_offline(wandb_offline)[-1]
    assert (again["id"], again["summary"]["protection"]) == (cell["id"], 0.5)
    assert not math.isnan(again["summary"]["protection/age"])
    assert not any(again["history"].values()), "the curve is there already"


def test_wandb_does_not_ask_for_a_key_in_the_middle_of_a_run(
    wandb_offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(wandb_offline / "none"))
    messages: list[str] = []
    [destination] = find_destinations(["wandb"], wandb_offline)
    with Tracker(destination, "smoke", CellProtections().add, messages.append) as tracker:
        tracker(ItemFinished("cells", "a1", "label", 1.0, make_record("a1")))
    [message] = messages
    assert message.startswith("W&B failed: there is no API key; `wandb login` asks for it")
