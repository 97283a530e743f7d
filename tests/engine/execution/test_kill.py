"""A run that is killed again and again ends with the numbers of one that was not."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.engine import tiny
from tests.engine.execution.chaos import assert_same, write_suite

ROOT = Path(__file__).resolve().parents[3]
MATRIX = {"attack": ["clean", "tap"], "defense": ["none", "grayscale", "jpeg"], "seed": [0, 1]}
KILLED = {"processes": (1, 4), "inline": (7, 9)}
"""Executor of each run that is killed → range of the things it has finished by then, of 18 in all: the second
one has come to the cells, of which there are twelve. The last run, which is not killed, is inline."""

PATIENCE_S = 60


def start(suite: Path, out: Path, executor: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from bench.cli import main; main()", "run", "--suite", str(suite)),
            *("--out", str(out), "--executor", executor, "--jobs", "2", "--device", "cpu", "--no-track"),
        ],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def kill_after(run: "subprocess.Popen[str]", finished: int, seconds: float) -> None:
    """Kill a run so many seconds after it has told of so many finished things, and see its workers end."""
    lines = iter(run.stderr or ())
    seen = [next(lines)]
    while sum(bool(re.match(r"(surrogates|poisons|cells) \d+/\d+ ", line)) for line in seen) < finished:
        line = next(lines, None)
        assert line is not None, f"the run ended by itself: {seen}"
        seen.append(line)
    time.sleep(seconds)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
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
        with start(suite, out, executor) as run:
            try:
                kill_after(run, rng.randint(*finished), rng.random() * 0.15)
            finally:
                run.kill()
        records = tiny.records(out)  # every file that has a record's name is a whole record
        assert {record.status for record in records.values()} <= {"done"}
        counts.append(len(records))
        for path, before in written.items():
            assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        found = (out / "records").glob("*.json")
        written |= {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    assert counts[-1] > 0
    assert counts == sorted(counts)
    with start(suite, out, "inline") as run:
        _, told = run.communicate()
    assert run.returncode == 0, told
    assert f"cells: {len(plan.cells) - counts[-1]} done, {counts[-1]} cached, 0 failed" in told
    for path, before in written.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    assert_same(out, unbroken)
