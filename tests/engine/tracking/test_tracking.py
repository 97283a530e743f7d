import contextlib
import dataclasses
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from bench.engine.execution.events import ItemFinished, Notice, RunFinished, RunStarted
from bench.engine.tracking import mlflow_database
from bench.engine.tracking.listener import Tracker
from bench.engine.tracking.mlflow_database import default_uri
from bench.engine.tracking.record_to_mlflow import (
    ATTACK_TAG,
    CHECKSUM_TAG,
    KEY_TAG,
    SUITE_TAG,
)
from bench.engine.tracking.record_values import record_checksum
from bench.engine.tracking.sink import TrackedBoard
from bench.errors import BenchError
from bench.record import AXES, Epoch, Record, write_record
from tests.engine.tracking.mirror import (
    all_runs,
    history,
    make_failed,
    make_record,
    make_tracker,
    rebuild,
    runs_of,
)

# MLflow's own use of SQLAlchemy; warned about once, when the first store is opened.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def _working_folder_stays_empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("working"))
        yield
        assert list(Path.cwd().iterdir()) == []


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    code = "import sys, bench.engine.tracking.listener; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_store_is_a_file_in_the_runs_folder(tmp_path: Path) -> None:
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert default_uri(Path("out")) == f"sqlite:///{Path.cwd()}/out/mlflow.db"


def test_a_finished_cell_becomes_a_run(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    record = make_record(suite="one cell")
    with make_tracker(uri, "one cell", tmp_path / "files", pytest.fail) as tracker:
        tracker(RunStarted("one cell", "out", {"cells": (1, 0)}))
        tracker(ItemFinished("poisons", "p", "a poison", 1.0))
        tracker(ItemFinished("cells", record.key, record.label, 20.5, record))
    [run] = runs_of(uri, "one cell")

    assert run.info.run_name == record.label
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 20_500, "the poison's crafting is not the cell's"
    assert run.info.end_time == 1_772_366_400_000

    params = run.data.params
    assert {axis: params[axis] for axis in AXES} == {axis: str(label) for axis, label in record.cell.items()}
    assert params["attack.version"] == "2"
    assert params["attack.params.steps"] == "[1, 2]"
    assert params["attack.params.rounding"] == "null"
    assert params["epsilon"] == "8"
    assert params["surrogate"] == "{}"
    assert params["recipe.note"] == "x" * 5999 + "…"
    [long_name] = [name for name in params if name.startswith("recipe.kkk")]
    assert len(long_name) == 250
    assert params[long_name] == "true"

    tags = run.data.tags
    assert tags[KEY_TAG] == record.key
    assert tags[CHECKSUM_TAG] == record_checksum(record)
    assert {name: tags[name] for name in ("suite", "status", "poison", "victim", "attack", "seed")} == {
        "suite": "one cell",
        "status": "done",
        "poison": "poison",
        "victim": "victim",
        "attack": "em",
        "seed": "4",
    }
    assert "error" not in tags

    assert history(uri, run, "train/loss") == [(1, 1.0), (3, pytest.approx(1 / 3))]
    assert history(uri, run, "train/learning_rate") == [(1, 0.1), (2, 0.1), (3, 0.1)]
    assert history(uri, run, "test/accuracy.age") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(uri, run, "weight/age") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert history(uri, run, "validation/age") == [(2, 0.25), (3, 0.375)]
    once = {
        name: value for name, value in run.data.metrics.items() if re.match("final|peak|noise|cost", name)
    }
    odd = {name: once.pop(name) for name in list(once) if "skin" in name}
    assert sorted(odd.values()) == [0.15, 0.2]
    assert once == {
        "final/accuracy.age": 0.3,
        "peak/accuracy.age": 0.4,
        "noise/linf": 8.0,
        "noise/intra_spread.age": 0.5,
        "noise/inter_distance.age": 1.5,
        "cost/seconds.craft": 100.0,
        "cost/peak_host_mb.craft": 7.0,
        "cost/seconds.train": 20.5,
        "cost/peak_host_mb.train": 7.0,
    }
    assert not [name for name in run.data.metrics if "auroc" in name]

    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name("one cell")
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "files").as_uri()


def test_a_run_names_the_data_and_the_poison_it_was_trained_on(uri: str) -> None:
    clean = {"attack": "clean(rate=0.5)"}
    cell = make_record().cell
    records = [
        make_record("a1", "inputs"),
        make_record("b2", "inputs", cell={**cell, **clean}),
        make_failed("c3", "inputs"),
    ]
    rebuild(uri, records)
    inputs = {
        run.data.tags[KEY_TAG]: {
            (one.dataset.name, one.dataset.digest, one.tags[0].key, one.tags[0].value)
            for one in run.inputs.dataset_inputs
        }
        for run in runs_of(uri, "inputs")
    }
    data = ("digits", "0123456789abcdef", "mlflow.data.context", "training")
    assert inputs == {
        "a1": {data, ("em", "poison", "mlflow.data.context", "poison")},
        "b2": {data},
        "c3": set(),
    }


def test_two_runs_that_name_new_data_at_the_same_moment_are_both_whole(uri: str) -> None:
    from mlflow.store.tracking.dbmodels.models import SqlDataset
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    one, other = make_record("a1", "at once"), make_record("b2", "at once")
    came: list[Record] = []

    def come_in_between(session: Session, *_: object) -> None:
        # MLflow has looked whether it knows the data, and is about to add them.
        if not came and any(isinstance(row, SqlDataset) for row in session.new):
            came.append(other)
            rebuild(uri, came)

    event.listen(Session, "before_flush", come_in_between)
    try:
        assert rebuild(uri, [one]) == (1, 0, 0)
    finally:
        event.remove(Session, "before_flush", come_in_between)
    used = {
        run.data.tags[KEY_TAG]: {put.dataset.name for put in run.inputs.dataset_inputs}
        for run in runs_of(uri, "at once")
    }
    assert used == {"a1": {"digits", "em"}, "b2": {"digits", "em"}}


def test_a_store_that_is_away_is_not_asked_for_the_data_twice(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    asked: list[object] = []

    def away(*request: object) -> None:
        asked.append(request)
        raise MlflowException("connection refused")

    monkeypatch.setattr(MlflowClient, "log_inputs", away)
    with pytest.raises(BenchError, match="connection refused"):
        rebuild(uri, [make_record(suite="away")])
    assert len(asked) == 1


BOARD = {"board.md": b"# Board", "figures/one.png": b"picture"}


def parent_of(uri: str, suite: str, attack: str | None = None) -> Any:
    """Return the run of a suite, or of an attack in it."""
    parents = (run for run in all_runs(uri, suite) if SUITE_TAG in run.data.tags)
    [parent] = [run for run in parents if run.data.tags.get(ATTACK_TAG) == attack]
    return parent


def files_of(run: Any) -> dict[str, bytes]:
    folder = Path(url2pathname(urlsplit(run.info.artifact_uri).path))
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_run_above_the_cells_has_the_board(uri: str) -> None:
    records = [make_record("a1", "above"), make_record("b2", "above"), make_record("c3", "aside")]
    tracker = make_tracker(uri, "above", None, pytest.fail)
    tracker(RunStarted("above", "out", {"cells": (2, 0)}))
    assert parent_of(uri, "above").info.status == "RUNNING"
    for record in (*records[:2], records[0]):
        tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
    tracker(RunFinished(done=2, cached=0, failed=0, seconds=1.0))
    tracker.finish_suite(records, lambda: TrackedBoard(BOARD))

    parent = parent_of(uri, "above")
    assert (parent.info.run_name, parent.info.status) == ("above", "FINISHED")
    assert parent.info.end_time == 1_772_366_400_000
    assert parent.data.metrics == {"cells/done": 2, "cells/failed": 0}
    assert files_of(parent) == BOARD

    assert rebuild(uri, records, files=BOARD) == (1, 2, 0)
    assert parent_of(uri, "above").to_dictionary() == parent.to_dictionary(), "there was nothing to add"
    assert files_of(parent_of(uri, "aside")) == BOARD

    failed = [*records[:2], make_failed("d4", "above")]
    rebuild(uri, failed, files={**BOARD, "board.md": b"# New"})
    parent = parent_of(uri, "above")
    assert parent.info.status == "FAILED"
    assert parent.data.metrics == {"cells/done": 2, "cells/failed": 1}
    assert files_of(parent) == {**BOARD, "board.md": b"# New"}


def test_the_run_of_a_suite_that_was_stopped_says_so_and_the_next_goes_on_with_it(uri: str) -> None:
    records = [make_record("a1", "stopped"), make_record("b2", "stopped")]

    def start(cells: tuple[int, int]) -> Tracker:
        tracker = make_tracker(uri, "stopped", None, pytest.fail)
        tracker(RunStarted("stopped", "out", {"cells": cells}))
        return tracker

    with pytest.raises(KeyboardInterrupt), start((2, 0)):
        raise KeyboardInterrupt
    killed = parent_of(uri, "stopped")
    assert killed.info.status == "KILLED"

    with start((2, 0)) as tracker:
        assert parent_of(uri, "stopped").info.status == "RUNNING"
        tracker(ItemFinished("cells", "a1", "label", 1.0, records[0]))
        tracker(RunFinished(done=1, cached=0, failed=0, seconds=1.0))
    assert parent_of(uri, "stopped").info.status == "KILLED"

    with start((1, 1)) as tracker:
        tracker(ItemFinished("cells", "b2", "label", 1.0, records[1]))
        tracker(RunFinished(done=1, cached=1, failed=0, seconds=1.0))
    tracker.finish_suite(records, TrackedBoard)
    parent = parent_of(uri, "stopped")
    assert (parent.info.run_id, parent.info.status) == (killed.info.run_id, "FINISHED")


def test_of_two_runs_above_the_cells_one_remains_with_all_of_them(uri: str) -> None:
    from mlflow import MlflowClient

    records = [make_record(key, "two above") for key in ("a1", "b2", "c3")]
    rebuild(uri, records)
    first, of_attack = parent_of(uri, "two above"), parent_of(uri, "two above", "em")
    client = MlflowClient(tracking_uri=uri)
    second = client.create_run(first.info.experiment_id, tags={SUITE_TAG: "two above"})
    client.create_run(first.info.experiment_id, tags={SUITE_TAG: "two above", ATTACK_TAG: "em"})
    one, other, _ = (run for run in all_runs(uri, "two above") if KEY_TAG in run.data.tags)
    client.set_tag(one.info.run_id, "mlflow.parentRunId", second.info.run_id)
    client.delete_tag(other.info.run_id, "mlflow.parentRunId")
    client.create_run(first.info.experiment_id, run_name="someone else's")

    assert rebuild(uri, records) == (0, 3, 0)
    assert parent_of(uri, "two above").info.run_id == first.info.run_id
    names = [run.info.run_name for run in all_runs(uri, "two above")]
    expected = [*(record.label for record in records), "two above", "em", "someone else's"]
    assert sorted(names) == sorted(expected)
    runs = [run for run in all_runs(uri, "two above") if KEY_TAG in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {of_attack.info.run_id}


def test_a_failed_cell_becomes_a_failed_run(uri: str) -> None:
    assert rebuild(uri, [make_record("a1", "failing"), make_failed("b2", "failing")]) == (2, 0, 0)
    statuses = {run.data.tags[KEY_TAG]: run.info.status for run in runs_of(uri, "failing")}
    assert statuses == {"a1": "FINISHED", "b2": "FAILED"}
    [failed] = [run for run in runs_of(uri, "failing") if run.data.tags[KEY_TAG] == "b2"]
    assert failed.data.tags["status"] == "failed"
    assert failed.data.tags["error"].startswith("ValueError: no éé")
    assert rebuild(uri, [make_failed("b2", "failing")]) == (0, 1, 0)


def test_a_curve_longer_than_mlflows_largest_batch_is_whole(uri: str) -> None:
    tasks = {f"task {i}": dict.fromkeys(("loss", "accuracy", "auroc"), 0.5) for i in range(10)}
    curve = [
        Epoch(epoch=e, train_loss=1.0, learning_rate=0.1, weights={}, scores=dict(tasks))  # type: ignore[arg-type]
        for e in range(1, 61)
    ]
    settings = {"recipe": {f"setting {i}": i for i in range(230)}}
    rebuild(uri, [make_record(suite="long", curve=curve, settings=settings)])
    [run] = runs_of(uri, "long")
    steps = list(range(1, 61))
    assert [step for step, _ in history(uri, run, "train/loss")] == steps
    assert [step for step, _ in history(uri, run, "test/auroc.task 9")] == steps
    assert {run.data.params[f"recipe.setting {i}"] for i in range(230)} == {str(i) for i in range(230)}


def test_names_that_mlflow_refuses_stay_apart(uri: str) -> None:
    names = ["a?b", "a*b", "a_b", "/lead", "../up", "a//b", "é" * 300, "é" * 301, "tail/", "."]
    scores: Any = {name: {"accuracy": index / 10} for index, name in enumerate(names)}
    rebuild(uri, [make_record(suite="names", scores=scores)])
    [run] = runs_of(uri, "names")
    final = {name: value for name, value in run.data.metrics.items() if name.startswith("final/")}
    assert sorted(final.values()) == [index / 10 for index in range(len(names))]
    assert final["final/accuracy.a_b"] == 0.2


@pytest.mark.parametrize("page", [200, 1])
def test_rebuilding_twice_adds_nothing(uri: str, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engine.tracking.mlflow_store.RUNS_PER_CALL", page)
    suite = f"twice, {page} a page"
    records = [make_record("a1", suite), make_record("b2", suite), make_record("a1", f"other {suite}")]
    assert rebuild(uri, records) == (3, 0, 0)
    before = [run.info.run_id for run in runs_of(uri, suite)]
    assert rebuild(uri, records) == (0, 3, 0)
    assert [run.info.run_id for run in runs_of(uri, suite)] == before
    assert len(runs_of(uri, f"other {suite}")) == 1


def test_a_run_that_was_cut_off_is_replaced(uri: str) -> None:
    from mlflow import MlflowClient

    record = make_record("a1", "cut off")
    rebuild(uri, [record])
    client = MlflowClient(tracking_uri=uri)
    [run] = runs_of(uri, "cut off")
    client.delete_run(run.info.run_id)
    tags = {KEY_TAG: record.key, CHECKSUM_TAG: record_checksum(record)}
    client.create_run(run.info.experiment_id, tags=tags)

    assert rebuild(uri, [record]) == (0, 0, 1)
    [run] = runs_of(uri, "cut off")
    assert run.data.metrics["final/accuracy.age"] == 0.3

    client.update_run(run.info.run_id, status="RUNNING")
    assert rebuild(uri, [record]) == (0, 0, 1)
    [run] = runs_of(uri, "cut off")
    assert run.info.status == "FINISHED"


def test_a_changed_record_is_replaced_by_listener_and_rebuild_alike(uri: str) -> None:
    record = make_record("a1", "changed")
    rebuild(uri, [record, make_record("b2", "changed")])
    changed = dataclasses.replace(record, noise={"linf": 4.0})
    assert rebuild(uri, [changed]) == (0, 0, 1)
    assert sorted(run.data.metrics["noise/linf"] for run in runs_of(uri, "changed")) == [4.0, 8.0]

    again = dataclasses.replace(record, noise={"linf": 2.0})
    make_tracker(uri, "changed", None, pytest.fail)(ItemFinished("cells", "a1", "label", 1.0, again))
    assert sorted(run.data.metrics["noise/linf"] for run in runs_of(uri, "changed")) == [2.0, 8.0]


def test_of_several_runs_of_a_record_one_is_kept(uri: str) -> None:
    from mlflow import MlflowClient

    record = make_record("a1", "several")
    rebuild(uri, [record])
    [good] = runs_of(uri, "several")
    client = MlflowClient(tracking_uri=uri)
    client.create_run(good.info.experiment_id, tags={KEY_TAG: record.key})
    assert rebuild(uri, [record]) == (0, 1, 0)
    assert [run.info.run_id for run in runs_of(uri, "several")] == [good.info.run_id]

    twin = client.create_run(good.info.experiment_id, tags=good.data.tags)
    client.set_terminated(twin.info.run_id)
    assert rebuild(uri, [record]) == (0, 1, 0)
    assert len(runs_of(uri, "several")) == 1


def test_a_deleted_experiment_is_restored(uri: str) -> None:
    from mlflow import MlflowClient

    record = make_record("a1", "deleted")
    rebuild(uri, [record])
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("deleted")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    rebuild(uri, [record])
    assert [run.data.tags[KEY_TAG] for run in runs_of(uri, "deleted")] == ["a1"]


def test_a_deleted_store_is_rebuilt_without_a_word(tmp_path: Path) -> None:
    out, working = tmp_path / "100% of é%20", tmp_path / "working"
    working.mkdir()
    records = [make_record("a1"), make_record("b2", epochs=1)]
    for record in records:
        write_record(out / "records", record)
    assert rebuild(default_uri(out), records) == (2, 0, 0)
    (out / "mlflow.db").unlink()

    # In a process of its own, since this one holds the deleted file open.
    code = (
        "import sys, pathlib; from bench.record import read_records\n"
        "from bench.engine.tracking.listener import *; from bench.engine.tracking.destinations import *\n"
        "out = pathlib.Path(sys.argv[1]); records = list(read_records(out / 'records'))\n"
        "[mlflow] = find_destinations(None, out)\n"
        "print(*(dict(rebuild_mirror(mlflow, records)) for _ in range(2)))"
    )
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=working)
    assert (done.stdout, done.stderr) == ("{'added': 2} {'kept': 2}\n", "")
    assert list(working.iterdir()) == []


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A file that is no database."""
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    return default_uri(tmp_path)


def test_a_broken_store_is_told_once_and_the_run_goes_on(broken: str) -> None:
    messages: list[str] = []
    record = make_record()
    with make_tracker(broken, "smoke", None, messages.append) as tracker:
        tracker(RunStarted("smoke", "out", {"cells": (2, 0)}))
        tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
        tracker(ItemFinished("cells", record.key, record.label, 1.0, record))
    assert len(messages) == 1
    assert "file is not a database" in messages[0]
    assert "Run `bench track` later to catch up" in messages[0]
    assert "\n" not in messages[0]


def test_a_store_that_breaks_during_the_run_is_told_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    messages: list[str] = []
    records = [make_record(key, "breaking") for key in ("a1", "b2", "c3")]
    tracker = make_tracker(uri, "breaking", None, messages.append)
    tracker(ItemFinished("cells", "a1", "label", 1.0, records[0]))

    def locked(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", locked)
        tracker(ItemFinished("cells", "b2", "label", 1.0, records[1]))
    tracker(ItemFinished("cells", "c3", "label", 1.0, records[2]))
    assert len(messages) == 1
    assert "database is locked" in messages[0]
    assert rebuild(uri, records) == (1, 1, 1)


def test_a_run_with_nothing_to_do_opens_no_store(broken: str) -> None:
    tracker = make_tracker(broken, "smoke", None, pytest.fail)
    tracker(RunStarted("smoke", "out", {"cells": (0, 4)}))
    tracker(Notice("all is cached"))
    tracker(ItemFinished("poisons", "p", "a poison", 1.0))


def test_a_rebuild_in_a_broken_store_is_one_clear_sentence(broken: str) -> None:
    with pytest.raises(
        BenchError,
        match=r"^cannot track: MLflow at sqlite:.*mlflow\.db failed: .* not a database; move the file away$",
    ):
        rebuild(broken, [make_record()])


def test_a_server_that_is_away_is_given_up_soon_and_no_password_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        BenchError, match=r"^cannot track: MLflow at http://127\.0\.0\.1:9 failed: .*Connection refused$"
    ):
        rebuild("http://someone:secret@127.0.0.1:9", [make_record()])
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7", "what the user sets stays"


@pytest.mark.parametrize("damage", ["unfinished", "garbage"])
def test_the_broken_database_of_a_run_is_made_again(tmp_path: Path, damage: str) -> None:
    database = tmp_path / "mlflow.db"
    if damage == "garbage":
        database.write_bytes(b"no database " * 1000)
    else:  # as a disk leaves it that was full when the tables were made
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE trace_info (request_id TEXT)")
    assert rebuild(default_uri(tmp_path), [make_record()], tmp_path / "mlartifacts") == (1, 0, 0)
    assert rebuild(default_uri(tmp_path), [make_record()], tmp_path / "mlartifacts") == (0, 1, 0)
    assert (tmp_path / "mlflow.db.broken").exists()


def test_the_lock_of_a_store_does_not_follow_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with mlflow_database._lock_store("sqlite:///a.db"):
        (lock,) = tmp_path.iterdir()
    other = tmp_path / "other"
    other.write_text("mine")
    lock.unlink()
    lock.symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), mlflow_database._lock_store("sqlite:///a.db"):
        pass
    assert other.read_text() == "mine"
