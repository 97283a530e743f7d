"""A run that is killed again and again ends with the numbers of one that was not."""

import random
import re
import time
from pathlib import Path

import psutil
import pytest

from tests.engine import tiny
from tests.engine.execution.chaos import Run, assert_same, start, wait_for, write_suite

MATRIX = {"attack": ["clean", "tap"], "defense": ["none", "grayscale", "jpeg"], "seed": [0, 1]}
KILLED = {"processes": (1, 4), "inline": (7, 9)}
"""Executor of each run that is killed → range of the things it has finished by then, of 18 in all: after the
second one, some of the twelve cells are done. The last run, which is not killed, is inline."""

PATIENCE_S = 60


def kill_after(run: Run, finished: int, seconds: float) -> None:
    """Kill a run so many seconds after it has told of so many finished things, and see its workers end."""
    told = re.compile(r"^(surrogates|poisons|cells) \d+/\d+ ", re.MULTILINE)
    wait_for(lambda: len(told.findall(run.text)) >= finished or not run.process.is_alive())
    assert run.process.is_alive(), f"the run ended by itself: {run.text}"
    time.sleep(seconds)
    workers = psutil.Process(run.process.pid).children(recursive=True)
    run.kill()
    run.end()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_a_run_killed_again_and_again(tmp_path: Path) -> None:
    plan = tiny.plan(matrix=MATRIX)
    unbroken, out = tmp_path / "unbroken", tmp_path / "out"
    assert tiny.run(plan, unbroken).counts == (len(plan.cells), 0, 0)

    suite = write_suite(tmp_path / "tiny.toml", **MATRIX)
    rng = random.Random(4)
    written: dict[Path, tuple[bytes, int]] = {}
    counts = []
    for executor, finished in KILLED.items():
        run = start(suite, out, "--executor", executor, "--jobs", "2")
        kill_after(run, rng.randint(*finished), rng.random() * 0.15)
        records = tiny.records(out)  # every file that has a record's name is a whole record
        assert {record.status for record in records.values()} <= {"done"}
        counts.append(len(records))
        for path, before in written.items():
            assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        found = (out / "records").glob("*.json")
        written |= {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    assert counts[-1] > 0
    assert counts == sorted(counts)
    run = start(suite, out)
    assert run.end() == 0, run.text
    assert f"cells: {len(plan.cells) - counts[-1]} done, {counts[-1]} cached, 0 failed" in run.text
    for path, before in written.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    assert_same(out, unbroken)
