"""Work as jobs of a Slurm cluster, submitted as arrays through submitit.

submitit hands errands to jobs and their results back as pickles. Nothing of the store is ever unpickled:
it may come from anywhere, and a pickle does whatever it likes. These come from this process and its own jobs
alone: they lie in a folder of this run that nobody but its user may enter, and go as soon as they are read.
"""

import contextlib
import json
import logging
import math
import shutil
import subprocess
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from filelock import FileLock, Timeout
from submitit import AutoExecutor, Job
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from bench.engine.elsewhere import Elsewhere, Errand, LostError
from bench.engine.executors import Outcome
from bench.errors import BenchError
from bench.record import write_atomically

POLL_EVERY_S: Final = 0.5
"""How often the folder is searched for results."""

SPEAK_EVERY_S: Final = 2.0
"""How often a job writes how far it is; each time is a file on a shared disk."""

JOBS: Final = 16
"""How many jobs there are at a time unless something else is wanted."""

BY_THEMSELVES: Final = ("FAILED", "COMPLETED", "FINISHED")
"""States of jobs that nothing but what they did has ended."""

SUBMITTED: Final = "_submitted.pkl"
"""How submitit names, after a job's number, what it hands to it."""


@dataclass(eq=False)
class _Sent:
    """A job, the file in which it says how far it is, and what was read there last."""

    job: Job[Any]
    step: Path
    heard: str | None = None


class Slurm(Elsewhere[_Sent]):
    """Jobs of a Slurm cluster; those that are left at the end are cancelled.

    Where this process is killed, so that it cannot, the next run in the same folder does it.
    """

    def __init__(
        self,
        out: Path,
        options: Mapping[str, str],
        jobs: int | None = None,
        threads: int = 1,
        limit_s: float | None = None,
    ) -> None:
        """Take what a run asks of a cluster.

        Args:
            out: the run's folder, which all nodes share.
            options: sbatch's, such as ``partition``, by their long names; ``time``, in minutes, is needed.
                ``cluster=local`` stands for processes of this machine.
            jobs: most jobs at a time; None means ``JOBS``.
            threads: CPU threads of a job, each of them a CPU to Slurm.
            limit_s: seconds an item may take at most, from when its job begins it.

        Raises:
            BenchError: when ``time`` is not given in whole minutes.
        """
        super().__init__(out, threads, limit_s)
        self._options = {name.replace("-", "_"): value for name, value in options.items()}
        self._cluster = self._options.pop("cluster", "slurm")
        minutes = self._options.pop("time", "")
        if not minutes.isdecimal():  # with more than its partition allows, a job would wait for ever
            raise BenchError(
                "--slurm time=MINUTES is missing or no whole number: how long a job may take, "
                "no longer than its partition allows"
            )
        self._minutes, self._jobs = int(minutes), jobs or JOBS
        self._logs = out / "slurm"
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for lock in self._logs.glob("*.lock"):
            _cancel_orphans(lock.with_suffix(""))
        with ExitStack() as block:
            self._witness = block.enter_context(_private_folder(self._logs))
            try:
                self._executor = AutoExecutor(self._witness, self._cluster)
                self._executor.update_parameters(
                    name="bench",
                    timeout_min=self._minutes,
                    cpus_per_task=self._threads,
                    slurm_array_parallelism=self._jobs,
                    slurm_additional_parameters=self._options,
                )
            except (RuntimeError, ValueError) as error:
                raise BenchError(f"cannot submit jobs to the cluster {self._cluster!r}: {error}") from error
            self._block = block.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel what is still under way."""
        for sent in self._under_way:
            self._end(sent)
        while self._cluster == "local" and not all(sent.job.done() for sent in self._under_way):
            time.sleep(POLL_EVERY_S)  # they would still write into the folder
        self._under_way.clear()
        self._block.close()

    def _room(self) -> int:
        return self._jobs

    def _send(self, errands: list[Errand]) -> list[_Sent]:
        steps = [self._witness / f"{uuid.uuid4().hex}.step" for _ in errands]
        try:
            jobs = self._executor.map_array(_serve, errands, steps)
        except (UncompletedJobError, FailedSubmissionError, OSError) as error:
            raise BenchError(f"the jobs were not taken: {' '.join(str(error).split())}") from error
        return [_Sent(job, step) for job, step in zip(jobs, steps, strict=True)]

    def _wait(self, handles: Collection[_Sent]) -> list[_Sent]:
        finished = [sent for sent in handles if sent.job.done()]
        if not finished:
            time.sleep(POLL_EVERY_S)
        return finished

    def _hear(self) -> Iterator[tuple[Any, Any]]:
        for sent in self._under_way:
            with contextlib.suppress(FileNotFoundError):
                said = sent.step.read_text(encoding="utf-8")
                if sent.heard is None:
                    yield sent, None
                if said != sent.heard:
                    sent.heard = said
                    yield sent, json.loads(said)

    def _fetch(self, handle: _Sent) -> Outcome[Any, Any]:
        job = handle.job
        if self._cluster == "local":
            job._results_timeout_s = 0  # what is not on this machine's disk by now never will be
        try:
            result: tuple[Outcome[Any, Any], list[str]] = job.result()
        except UncompletedJobError as error:
            log = self._keep_logs(job)
            if handle.heard is None and job.state in BY_THEMSELVES:
                raise BenchError(
                    f"job {job.job_id} ended before it began its item; see {log}, and if that is not there: "
                    "give --out a folder that all nodes share under the same path"
                ) from error
            raise LostError from error
        finally:
            for path in (handle.step, *self._witness.glob(f"{job.job_id}_*")):
                path.unlink(missing_ok=True)
        outcome, warnings = result
        for sentence in warnings:
            logging.getLogger("bench").warning(sentence)
        return outcome

    def _keep_logs(self, job: Job[Any]) -> Path:
        for path in (job.paths.stdout, job.paths.stderr):
            with contextlib.suppress(FileNotFoundError):
                path.replace(self._logs / path.name)
        return self._logs / job.paths.stderr.name

    def _end(self, handle: _Sent) -> None:
        handle.job.cancel(check=False)


def _serve(errand: Errand, step: Path) -> tuple[Outcome[Any, Any], list[str]]:
    """Do an errand in a job; return its outcome and the warnings.

    Raises:
        UncompletedJobError: as Slurm's time for the job is over.
    """
    warnings: list[str] = []
    spoken = -math.inf

    def say(word: object) -> None:
        nonlocal spoken
        if isinstance(word, str):
            warnings.append(word)
        elif time.monotonic() >= spoken + SPEAK_EVERY_S:
            spoken = time.monotonic()
            with contextlib.suppress(BenchError):  # a full disk: the work itself says so, should it need any
                write_atomically(step, json.dumps(word))

    outcome = errand.run(say)
    # submitit says so by an exception amid the work, which takes it for its own.
    if outcome.failure and outcome.failure["type"] == UncompletedJobError.__name__:
        raise UncompletedJobError(outcome.failure["message"])
    return outcome, warnings


@contextmanager
def _private_folder(logs: Path) -> Iterator[Path]:
    """Make a folder of this run and hold its lock, which tells others that the run lives."""
    folder = logs / uuid.uuid4().hex
    with FileLock(f"{folder}.lock") as lock:
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def _cancel_orphans(folder: Path) -> None:
    """Cancel the jobs of a run that was killed and remove its folder; one that lives is left alone."""
    with contextlib.suppress(Timeout), FileLock(f"{folder}.lock", timeout=0) as lock:
        jobs = [path.name.removesuffix(SUBMITTED) for path in folder.glob(f"*{SUBMITTED}")]
        if jobs and shutil.which("scancel"):
            subprocess.run(["scancel", *jobs], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
