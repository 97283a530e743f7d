"""Slurm through submitit: processes of this machine, and job arrays of commands that stand in for Slurm's."""

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli.run_setup import cluster_executor
from bench.engine.stages.context import RunContext
from bench.errors import BenchError
from bench.values import Progress
from tests.engine import tiny
from tests.engine.executors import slurm_stand_in
from tests.engine.executors.test_executors import end, in_order, is_alive, silent, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed"),
    pytest.mark.xdist_group("slurm"),
]

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = {"time": "5"}


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Submit to processes of this machine, whose minutes are such that a signal of Slurm's is one of time."""
    from bench.engine.executors.slurm import Slurm

    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with Slurm(out, OPTIONS | {"cluster": "local"}, jobs=2, threads=3) as found:
            yield found


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install Slurm's commands and return the folder where they note what they do."""
    import submitit

    folder = tmp_path / "slurm"
    (folder / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{slurm_stand_in.install(folder / 'bin')}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)  # there is no other machine's disk
    return folder


# -- work, found by its name in the jobs --------------------------------------------------------------------


def note(item: int, progress: Progress) -> tuple[int, int]:
    """Say something, and return the square with the worker's threads."""
    import torch

    if item < 0:
        raise ValueError(f"{item} is negative")
    logging.getLogger("bench.somewhere").warning("mind the gap")
    return item**2, torch.get_num_threads()


def stay(item: str, progress: Progress) -> None:
    """Note the process, and stay."""
    aside = Path(f"{item}.aside")
    aside.write_text(str(os.getpid()))
    aside.rename(item)
    while True:
        progress("step", 1, 7)
        time.sleep(0.5)


# -- processes of this machine ------------------------------------------------------------------------------


def test_jobs_bring_results_failures_and_warnings(executor: Any, caplog: pytest.LogCaptureFixture) -> None:
    pulled = []

    def items() -> Iterator[int]:
        for item in (2, -1, 3):
            pulled.append(item)
            yield item

    outcomes = executor.map(note, in_order(items()), silent)
    first = next(outcomes)
    assert pulled == [2, -1]
    found = {outcome.item: outcome for outcome in (first, *outcomes)}
    assert (found[2].result, found[3].result) == ((4, 3), (9, 3))
    assert found[-1].failure["message"] == "-1 is negative"
    assert "in note" in found[-1].failure["traceback"]
    assert {record.getMessage() for record in caplog.records if record.name == "bench"} == {"mind the gap"}


def test_jobs_that_are_killed_or_too_long_for_slurm(executor: Any, tmp_path: Path) -> None:
    items = [(what, str(tmp_path)) for what in ("once", "always", "slow")]
    found = {outcome.item[0]: outcome for outcome in executor.map(end, in_order(items), silent)}
    assert {what for what, outcome in found.items() if outcome.result == what} == {"once", "slow"}
    assert found["always"].failure["type"] == "WorkerDied"
    assert [(tmp_path / what).read_text() for what, _ in items] == ["xx", "xx", "xx"]


def test_a_job_that_hangs(executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_limit_s", 1)
    (outcome,) = executor.map(end, in_order([("hang", str(tmp_path))]), silent)
    assert outcome.failure["message"] == "it took longer than the time limit of 1 s"
    assert (tmp_path / "hang").read_text() == "x"


def test_pickles_are_private_and_gone_once_read(executor: Any) -> None:
    logs = executor._logs
    (folder,) = filter(Path.is_dir, logs.iterdir())
    assert [path.stat().st_mode & 0o777 for path in (logs, folder)] == [0o700, 0o700]
    assert not list(logs.rglob("*.pkl"))


# -- job arrays ---------------------------------------------------------------------------------------------


def test_a_run_as_job_arrays(stand_in: Path, tmp_path: Path) -> None:
    """The numbers are those of one process; the scripts have the options."""
    from bench.engine.executors.slurm import Slurm

    plan = tiny.plan()
    alone, out = tmp_path / "alone", tmp_path / "out"
    tiny.run(plan, alone)
    options = {"partition": "long", "time": "60", "gpus-per-node": "1"}
    ran = tiny.run(plan, out, Slurm(out, options, jobs=2, threads=1))
    assert ran.counts == (len(plan.cells), 0, 0)
    assert tiny.results(out) == tiny.results(alone)
    scripts = [path.read_text() for path in stand_in.glob("*.script")]
    arrays = [script for script in scripts if "#SBATCH --array=0-1%2" in script]
    assert arrays
    for line in ("--partition=long", "--time=60", "--cpus-per-task=1", "--gpus-per-node=1"):
        assert all(f"#SBATCH {line}\n" in script for script in scripts)
    assert list((out / "slurm").iterdir()) == []


def test_what_is_under_way_at_the_end_is_canceled(stand_in: Path, tmp_path: Path) -> None:
    from bench.engine.executors.slurm import Slurm

    items = [str(tmp_path / name) for name in ("first", "second")]
    told: list[Any] = []

    def work_until_begun() -> None:
        for _ in executor.map(stay, in_order(items), tell):
            raise AssertionError("it never ends")

    def tell(*step: Any) -> None:
        told.append(step)
        if all(Path(item).exists() for item in items):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with Slurm(out, OPTIONS, jobs=2) as executor, pytest.raises(KeyboardInterrupt):
        work_until_begun()
    assert {(item, "step", 1, 7) for item in items} >= set(told) > set()
    assert (stand_in / "canceled").read_text().split() == ["100_0", "100_1"]
    wait_for(lambda: not any(is_alive(int(Path(item).read_text())) for item in items))
    assert list((out / "slurm").iterdir()) == []


def test_jobs_of_a_killed_run_are_cancelled_by_the_next(stand_in: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    from bench.engine.executors.slurm import Slurm

    logs = tmp_path / "out" / "slurm"
    dead, alive = "d" * 32, "a" * 32
    for name, job in ((dead, "7_0"), (alive, "8")):
        (logs / name).mkdir(parents=True)
        (logs / f"{name}.lock").touch()
        (logs / name / f"{job}_submitted.pkl").touch()
        (stand_in / f"{job}.task").write_text("PENDING 0")
    for name in (
        "7_0_0_log.err",
        f"{dead}.progress",
        f".{dead}.progress.1.tmp",
        f".submission_file_{dead}.sh",
    ):
        (logs / dead / name).touch()
    with FileLock(logs / f"{alive}.lock"), Slurm(tmp_path / "out", OPTIONS):
        assert (stand_in / "canceled").read_text().split() == ["7_0"]
        assert not (logs / dead).exists()
        assert (logs / alive).exists()


def test_what_no_run_left_is_neither_canceled_nor_removed(stand_in: Path, tmp_path: Path) -> None:
    from bench.engine.executors.slurm_folder import cancel_orphans

    logs, elsewhere = tmp_path / "out" / "slurm", tmp_path / "elsewhere"
    random, link = "b" * 32, "c" * 32
    kept = [
        tmp_path / "out" / "leaderboard.md",
        logs / "...lock",
        *(logs / "mine" / name for name in ("9_submitted.pkl", "notes")),
        *(logs / random / name for name in ("--user=me_submitted.pkl", "9x_submitted.pkl", "notes")),
        elsewhere / "9_submitted.pkl",
    ]
    for path in (*kept, logs / "mine.lock", logs / f"{random}.lock", logs / f"{link}.lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (logs / link).symlink_to(elsewhere)
    cancel_orphans(logs)
    assert not (stand_in / "canceled").exists()
    assert [path for path in kept if not path.exists()] == []


def test_a_job_that_cannot_begin_ends_the_run(stand_in: Path, tmp_path: Path) -> None:
    from bench.engine.executors.slurm import Slurm

    srun = stand_in / "bin" / "srun"
    srun.write_text("#!/bin/sh\nexit 1\n")
    with Slurm(tmp_path / "out", OPTIONS, jobs=1) as executor, pytest.raises(BenchError) as raised:
        list(executor.map(note, in_order([1]), silent))
    assert str(raised.value).startswith("job 100 ended before it started its item; see ")
    assert "that all nodes share" in str(raised.value)


def test_what_slurm_refuses_is_said(stand_in: Path, tmp_path: Path) -> None:
    from bench.engine.executors.slurm import Slurm

    (stand_in / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition: x >&2\nexit 1\n")
    with (
        Slurm(tmp_path / "out", OPTIONS) as executor,
        pytest.raises(BenchError, match=r"did not accept the jobs: invalid partition: x"),
    ):
        list(executor.map(note, in_order([1]), silent))
    for options in ({}, {"time": "1:00"}):
        with pytest.raises(BenchError, match=r"--slurm time=MINUTES is missing or not a whole number"):
            Slurm(tmp_path, options)


def test_no_slurm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.engine.executors.slurm import Slurm

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"cannot submit jobs to the cluster 'slurm': .*srun"):
        Slurm(tmp_path, OPTIONS).__enter__()
    assert list((tmp_path / "slurm").iterdir()) == []


# -- the command line ---------------------------------------------------------------------------------------


def given(run_context: RunContext, *options: str) -> Any:
    return cluster_executor("slurm", None, run_context, None, None, None, options)


def test_options_of_the_command_line(tmp_path: Path) -> None:
    on_cpu = tiny.run_context(tmp_path)
    on_gpu = replace(on_cpu, device="cuda")
    assert given(on_cpu, "time=5", "mem=4G")._options == {"mem": "4G"}
    assert given(on_gpu, "time=5")._options == {"gpus_per_node": "1"}
    assert given(on_gpu, "time=5", "gres=gpu:2")._options == {"gres": "gpu:2"}
    for wrong in ("partition", "=long", "partition="):
        with pytest.raises(BenchError, match=rf"^--slurm {wrong} has no value"):
            given(on_cpu, wrong)


@pytest.mark.parametrize(("executor", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_package_that_is_not_there(
    executor: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"bench.engine.executors.{executor}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        BenchError, match=rf"needs the package {package}; pip install 'mtlue-bench\[{executor}\]'"
    ):
        cluster_executor(executor, None, tiny.run_context(tmp_path), None, None, None, ["time=5"])
