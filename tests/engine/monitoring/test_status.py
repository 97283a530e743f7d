"""The status of a run for other terminals: its file, which runs are alive, and `bench status`."""

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from bench.engine.execution.events import ItemFinished, ItemProgress, RunStarted
from bench.engine.monitoring import observer, status
from bench.engine.monitoring.observer import observe_run, worker_memory
from bench.engine.monitoring.progress import RunProgress
from bench.engine.monitoring.status import (
    FoundStatus,
    Status,
    explain_absence,
    publish_status,
    read_statuses,
    render_status,
)
from bench.files import write_atomically
from bench.record import Record, write_record
from tests.records import make_record

PATIENCE_S = 60


class KeysOnly:
    """A ranking that keeps the keys of the records it gets."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def add(self, record: Record) -> None:
        self.keys.append(record.key)

    def best(self) -> tuple[str, float, int] | None:
        return ("em", 0.5, len(self.keys)) if self.keys else None


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "TICK_S", 0.01)
    monkeypatch.setattr(observer, "POLL_S", 0.01)


def wait_until(true: Callable[[], object]) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.01)


def only_status(out: Path) -> FoundStatus:
    """Return the only status on a folder."""
    (seen,) = read_statuses(out)
    return seen


def running(todo: int = 3, cached: int = 2) -> RunProgress:
    """Return the progress of a run whose second cell is under way."""
    progress = RunProgress(KeysOnly())
    progress(RunStarted("smoke", "out", {"cells": (todo, cached)}))
    progress(ItemFinished("cells", "a", "em · a", 60.0, record=make_record({"a": 0.5})))
    progress(ItemProgress("cells", "b", "em · b", "epoch", 3, 10))
    return progress


@pytest.fixture
def own(tmp_path: Path) -> Status:
    """The status that this process writes as a run."""
    with publish_status(running(), tmp_path):
        wait_until(lambda: read_statuses(tmp_path))
        return only_status(tmp_path).status


def leave(out: Path, own: Status, age_s: float = 0.0) -> Path:
    """Write a status file as a run leaves it that is killed, so many seconds ago."""
    path = out / "status" / f"{own.host}-{own.pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(own)))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


@pytest.fixture
def nobody() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_run_is_there_while_it_lasts_and_gone_when_it_ends(tmp_path: Path) -> None:
    progress = running()
    with observe_run(progress, tmp_path), publish_status(progress, tmp_path):
        wait_until(lambda: read_statuses(tmp_path) and progress.memory_mib)
        seen = only_status(tmp_path)
        assert seen.alive
        assert (seen.status.pid, seen.status.host) == (os.getpid(), platform.node())
        view = seen.status.progress
        assert (view.suite, view.cells_done, view.cells, view.best) == ("smoke", 3, 5, ("em", 0.5, 1))
        assert [(item.label, item.what, item.done, item.total) for item in view.items] == [
            ("em · b", "epoch", 3, 10)
        ]
        progress(ItemProgress("cells", "b", "em · b", "epoch", 4, 10))
        wait_until(lambda: only_status(tmp_path).status.progress.items[0].done == 4)
        (memory,) = only_status(tmp_path).status.progress.memory_mib
        assert 1 < memory < psutil.virtual_memory().total / 2**20
    assert list((tmp_path / "status").iterdir()) == []
    assert read_statuses(tmp_path) == []


def test_the_file_is_gone_when_a_run_breaks(tmp_path: Path) -> None:
    def broken_run() -> None:
        with publish_status(running(), tmp_path):
            wait_until(lambda: read_statuses(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_run()
    assert read_statuses(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").touch()
    tried: list[Path] = []
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.01)

    def write(path: Path, text: str) -> None:
        tried.append(path)
        write_atomically(path, text)

    monkeypatch.setattr(status, "write_atomically", write)
    progress = running()
    with publish_status(progress, tmp_path):
        wait_until(lambda: len(tried) >= 2)
    assert (tmp_path / "status").read_bytes() == b""


def test_nothing_is_written_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Path] = []
    monkeypatch.setattr(status, "write_atomically", lambda path, _: files.append(path))
    monkeypatch.setattr(status, "HEARTBEAT_S", 10 * PATIENCE_S)
    progress, writes_at_tick = running(), []

    class Ended(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == status.TICK_S
            writes_at_tick.append(len(files))
            if len(writes_at_tick) == 3:
                progress(ItemProgress("cells", "b", "em · b", "epoch", 4, 10))
            if len(writes_at_tick) == 6:
                self.set()
            return self.is_set()

    status._write_until(Ended(), progress, tmp_path)
    assert writes_at_tick == [1, 1, 1, 2, 2, 2]


def test_a_status_is_written_now_and_then_though_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []
    monkeypatch.setattr(status, "write_atomically", lambda path, _: files.append(path))
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.01)
    with publish_status(running(), tmp_path):
        wait_until(lambda: len(files) >= 3)


def test_what_runs_that_are_gone_left_is_swept_and_others_are_left_alone(
    tmp_path: Path, own: Status, nobody: int
) -> None:
    dead = leave(tmp_path, replace(own, pid=nobody))
    aside = dead.with_name(f".{dead.name}.{nobody}.tmp")
    aside.touch()
    silent = leave(tmp_path, replace(own, host="elsewhere"), status.SILENT_S + 60)
    talking = leave(tmp_path, replace(own, host="elsewhere", pid=1), 1)
    foreign = {
        dead.with_name(name) for name in ("notes.txt", "settings.json", "box-1.json", ".notes.json.1.tmp")
    }
    for path in foreign:
        path.write_text("{}")
    renamed = dead.with_name("mine.json")
    renamed.write_bytes(dead.read_bytes())
    with publish_status(running(), tmp_path):
        wait_until((tmp_path / "status" / f"{own.host}-{os.getpid()}.json").exists)
        assert not dead.exists()
        assert not aside.exists()
        assert not silent.exists()
    assert set((tmp_path / "status").iterdir()) == {talking, renamed, *foreign}


def test_who_is_still_there(tmp_path: Path, own: Status, nobody: int) -> None:
    def alive(age_s: float = 0.0, **changes: object) -> bool:
        path = leave(tmp_path, replace(own, **changes), age_s)  # type: ignore[arg-type]
        found = only_status(tmp_path).alive
        path.unlink()
        return found

    assert alive()
    assert alive(1e6), "a process of this machine that is there, however long ago it wrote"
    assert not alive(pid=nobody)
    assert not alive(1e6, created=own.created - 100), "another process with its number"
    assert alive(created=own.created - 100), "its clock was set"
    assert not alive(pid=10**12)
    assert alive(1, host="elsewhere", pid=nobody)
    assert alive(-1e6, host="elsewhere"), "its clock is ahead"
    assert not alive(status.SILENT_S + 60, host="elsewhere")
    unwaited = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: psutil.Process(unwaited.pid).status() == psutil.STATUS_ZOMBIE)
    assert not alive(pid=unwaited.pid)
    unwaited.wait()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": 3}',
        b"\xff\xfe",
        b'{"schema": 3, "host": "a", "pid": -1, "created": 0, "started": "", "progress": null}',
    ],
)
def test_a_file_that_is_no_status_is_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "a-1.json").write_bytes(content)
    assert read_statuses(tmp_path) == []


@pytest.mark.parametrize(
    "change", [{"schema": 1}, {"created": float("nan")}, {"created": float("inf")}, {"pid": "no"}]
)
def test_a_status_with_one_wrong_entry_is_passed_over(
    tmp_path: Path, own: Status, change: dict[str, object]
) -> None:
    leave(tmp_path, replace(own, **change))  # type: ignore[arg-type]
    assert read_statuses(tmp_path) == []


@pytest.fixture
def earlier(tmp_path: Path) -> list[str]:
    """Keys of the records in a folder."""
    records = [make_record({"a": 0.5}, seed=seed) for seed in range(3)]
    for record in records:
        write_record(tmp_path / "records", record)
    (tmp_path / "records" / f"{'0' * 16}.json").write_text("damaged")
    return sorted(record.key for record in records)


def test_the_ranking_knows_the_cells_of_earlier_runs(tmp_path: Path, earlier: list[str]) -> None:
    ranking = KeysOnly()
    progress = RunProgress(ranking)
    with observe_run(progress, tmp_path):
        wait_until(lambda: progress.memory_mib)
        assert ranking.keys == [], "nobody knows yet whether anything is to be done"
        progress(RunStarted("smoke", "out", {"cells": (2, 3)}))
        wait_until(lambda: len(ranking.keys) >= 3)
    assert ranking.keys == earlier
    assert progress.snapshot().best == ("em", 0.5, 3)


@pytest.mark.parametrize("cells", [(0, 3), (3, 0)])
def test_no_record_is_read_if_no_cell_is_added_to_it(
    tmp_path: Path, earlier: list[str], cells: tuple[int, int]
) -> None:
    ranking = KeysOnly()
    progress = RunProgress(ranking)
    progress(RunStarted("smoke", "out", {"cells": cells}))
    observer._add_earlier_records(progress, tmp_path, threading.Event())
    assert ranking.keys == []
    progress(RunStarted("smoke", "out", {"cells": (1, 3)}))
    observer._add_earlier_records(progress, tmp_path, threading.Event())
    assert ranking.keys == earlier


def test_the_memory_of_workers_is_theirs() -> None:
    (own,) = worker_memory()
    assert own == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    worker = context.Process(target=stop.wait)
    worker.start()
    try:
        (theirs,) = worker_memory()
        assert theirs < own / 2, "a worker that has not imported torch"
    finally:
        stop.set()
        worker.join()


def test_what_is_shown_of_a_run(tmp_path: Path, own: Status) -> None:
    screen = Console(file=StringIO(), width=90)
    own = replace(own, host="box\x1b[31m", progress=replace(own.progress, suite="smo\nke", cells_failed=1))
    screen.print(render_status(FoundStatus(own, True, 0.0), Path("runs/smoke"), 90))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "smo ke in runs/smoke: 3 of 5 cells are done, 1 failed"
    assert lines[1].startswith("running for ")
    assert lines[1].endswith(f" s, since {own.started}, process {own.pid} on box [31m")
    assert lines[2].startswith("cells 1/3  ━━━━━━━━━━")
    assert lines[2].rstrip().endswith("2 cached  ~2 min left")
    assert lines[-1].split() == ["em", "·", "b", "epoch", "3/10"]


def test_the_sentence_on_a_folder_nobody_works_on(tmp_path: Path, own: Status, earlier: list[str]) -> None:
    assert explain_absence([], tmp_path) == f"no run is active in {tmp_path}; 4 cells have a record"
    gone = FoundStatus(replace(own, host="box", pid=7), False, 250)
    assert explain_absence([gone], tmp_path) == (
        f"no run is active in {tmp_path}; 3 of 5 cells are done. Repeat the same command to continue "
        "(process 7 on box last reported 4 min 10 s ago)"
    )
