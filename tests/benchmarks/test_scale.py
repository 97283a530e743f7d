"""Ten thousand cells at full size: `nox -s benchmarks -- -k scale -s` prints seconds and memory.

Wall time depends on what else the machine does; CPU seconds, which include the imports, hardly do.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.engine.execution.events import Event, ItemFinished
from bench.engine.execution.runner import run_plan
from bench.engine.monitoring.console import show_progress
from bench.engine.monitoring.progress import RunProgress
from bench.engine.planning.expand import Plan
from bench.record import write_record
from leaderboard.live_ranking import LiveRanking
from tests import large
from tests.engine import tiny

REDUCED: dict[str, list[str | int]] = {
    "seed": [0],
    "dataset": ["digits"],
    "weighting": ["ew"],
    "defense": ["none"],
}
"""Axes of the suite when nothing is timed: that the benchmarks run is tested with 45 cells."""

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what prints a line although the output is captured."""

    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    return print_line


@pytest.fixture(scope="module")
def planned(request: pytest.FixtureRequest) -> Plan:
    """Return all 10,125 cells, or few of them if nothing is timed."""
    return large.plan(**({} if request.config.getoption("benchmark_enable") else REDUCED))


@pytest.fixture(scope="module")
def suite_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "large.toml"
    matrix = large.AXES if request.config.getoption("benchmark_enable") else {**large.AXES, **REDUCED}
    # What JSON writes of a list or a text is TOML too.
    axes = "".join(f"{axis} = {json.dumps(values)}\n" for axis, values in matrix.items())
    head, _, rest = tiny.TOML.partition("[matrix]")
    tables = rest[rest.index("[recipe]") :].replace("epochs = 2", f"epochs = {large.EPOCHS}")
    path.write_text(f"{head.replace('star = true', '')}[matrix]\n{axes}\n{tables}")
    return path


@pytest.fixture(scope="module")
def finished(planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of the whole suite."""
    out = tmp_path_factory.mktemp("run")
    finish(out, planned)
    return out


def finish(out: Path, planned: Plan) -> None:
    """Write what a run of all cells would have left in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for cell in planned.cells:
            write_record(out / "records", large.finish(cell))


def bench(*arguments: str) -> str:
    """Run a command in a process of its own; return what it took in words."""
    script = "import sys; sys.argv[0] = 'bench'; from bench.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    seconds = used.ru_utime + used.ru_stime
    return f"bench {arguments[0]}: {seconds:.1f} s of CPU, at most {used.ru_maxrss / 1024:.0f} MiB"


@pytest.mark.benchmark(group="bench plan, 10,125 cells, none done")
def test_plan(benchmark: BenchmarkFixture, suite_file: Path, tmp_path: Path, say: Say) -> None:
    command = ("plan", "--suite", str(suite_file), "--out", str(tmp_path), "--no-calibrate")
    say(benchmark.pedantic(bench, args=command, rounds=1))


@pytest.mark.benchmark(group="bench plan, 10,125 cells, all done")
def test_plan_of_what_is_done(
    benchmark: BenchmarkFixture, suite_file: Path, finished: Path, say: Say
) -> None:
    command = ("plan", "--suite", str(suite_file), "--out", str(finished), "--no-calibrate")
    say(benchmark.pedantic(bench, args=command, rounds=1))


@pytest.mark.benchmark(group="bench run, 10,125 cells, all done")
def test_run_of_what_is_done(
    benchmark: BenchmarkFixture, suite_file: Path, finished: Path, planned: Plan, say: Say
) -> None:
    command = ("run", "--suite", str(suite_file), "--out", str(finished), "--no-track")
    say(benchmark.pedantic(bench, args=command, rounds=1))
    assert f"{len(planned.cells)} cells" in (finished / "leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.benchmark(group="bench track, 45 cells")
def test_track(benchmark: BenchmarkFixture, tmp_path: Path, say: Say) -> None:
    finish(tmp_path, large.plan(**REDUCED))
    command = ("track", "--out", str(tmp_path))
    say(benchmark.pedantic(bench, args=command, rounds=1))
    say(f"the same again: {bench(*command)}")


@pytest.mark.benchmark(group="2,250 cells that do nothing")
def test_memory_over_cells(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, tmp_path: Path, say: Say
) -> None:
    timed = request.config.getoption("benchmark_enable")
    planned = large.plan(**({"seed": [0, 1], "dataset": ["digits"]} if timed else REDUCED))
    process, marks = psutil.Process(), list[float]()

    def watch(event: Event) -> None:
        if isinstance(event, ItemFinished) and event.kind == "cells":
            marks.append(process.memory_info().rss / 2**20)

    def whole() -> None:
        progress = RunProgress(LiveRanking())
        with show_progress(progress, io.StringIO()) as show, large.Pretending() as executor:
            run_plan(planned, tiny.run_context(tmp_path), executor, [progress, show, watch])

    benchmark.pedantic(whole, rounds=1)
    every = marks[:: max(1, len(marks) // 8)]
    say(f"MiB in the parent over {len(marks)} cells: {', '.join(f'{mark:.0f}' for mark in every)}")
