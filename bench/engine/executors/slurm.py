"""Work as jobs of a Slurm cluster, submitted as arrays through submitit."""

import logging
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from submitit import AutoExecutor
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from bench.engine.executors.base import Message, Outcome
from bench.engine.executors.remote import RemoteExecutor, RemoteTask, WorkerLostError
from bench.engine.executors.slurm_folder import SubmittedJob, cancel_orphans, private_folder, run_in_job
from bench.errors import BenchError

POLL_EVERY_S: Final = 0.5
"""How often the folder is checked for results."""

JOBS: Final = 16
"""Default number of jobs at a time."""

ENDED_BY_ITSELF: Final = ("FAILED", "COMPLETED", "FINISHED")
"""States of jobs that were not canceled, killed or preempted."""


class Slurm(RemoteExecutor[SubmittedJob]):
    """Jobs of a Slurm cluster; those in flight at the end are canceled.

    If this process is killed before it can do so, the next run in the same folder cancels them.
    """

    def __init__(
        self,
        out: Path,
        options: Mapping[str, str],
        jobs: int | None = None,
        threads: int = 1,
        limit_s: float | None = None,
    ) -> None:
        """Configure the jobs.

        Args:
            out: the run's folder, which all nodes share.
            options: options of sbatch, such as ``partition``, by their long names; ``time``, in minutes, is
                required. ``cluster=local`` means processes of this machine.
            jobs: most jobs at a time; None means ``JOBS``.
            threads: CPU threads of a job; Slurm counts each as a CPU.
            limit_s: most seconds an item may take, from when its job starts it.

        Raises:
            BenchError: when ``time`` is not a whole number of minutes.
        """
        super().__init__(out, threads, limit_s)
        self._options = {name.replace("-", "_"): value for name, value in options.items()}
        self._cluster = self._options.pop("cluster", "slurm")
        minutes = self._options.pop("time", "")
        if not minutes.isdecimal():  # a job with more than its partition allows would wait forever
            raise BenchError(
                "--slurm time=MINUTES is missing or not a whole number; it is how long a job may take, at "
                "most as long as its partition allows"
            )
        self._minutes, self._jobs = int(minutes), jobs or JOBS
        self._logs = out / "slurm"
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        cancel_orphans(self._logs)
        with ExitStack() as block:
            self._shared_path = block.enter_context(private_folder(self._logs))
            try:
                self._executor = AutoExecutor(self._shared_path, self._cluster)
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
        """Cancel the jobs in flight."""
        for submitted in self._in_flight:
            self._cancel(submitted)
        while self._cluster == "local" and not all(submitted.job.done() for submitted in self._in_flight):
            time.sleep(POLL_EVERY_S)  # until then they may write into the folder
        self._in_flight.clear()
        self._block.close()

    def _capacity(self) -> int:
        return self._jobs

    def _submit(self, tasks: list[RemoteTask]) -> list[SubmittedJob]:
        progress_files = [self._shared_path / f"{uuid.uuid4().hex}.progress" for _ in tasks]
        try:
            jobs = self._executor.map_array(run_in_job, tasks, progress_files)
        except (UncompletedJobError, FailedSubmissionError, OSError) as error:
            raise BenchError(f"Slurm did not accept the jobs: {' '.join(str(error).split())}") from error
        return [SubmittedJob(job, path) for job, path in zip(jobs, progress_files, strict=True)]

    def _wait(self, handles: Collection[SubmittedJob]) -> list[SubmittedJob]:
        finished = [submitted for submitted in handles if submitted.job.done()]
        if not finished:
            time.sleep(POLL_EVERY_S)
        return finished

    def _receive_messages(self) -> Iterator[tuple[Any, Message]]:
        for submitted in self._in_flight:
            yield from ((submitted, message) for message in submitted.read_messages())

    def _fetch_outcome(self, handle: SubmittedJob) -> Outcome[Any, Any]:
        job = handle.job
        if self._cluster == "local":
            job._results_timeout_s = 0  # on this machine's own disk, results do not arrive late
        try:
            result: tuple[Outcome[Any, Any], list[str]] = job.result()
        except UncompletedJobError as error:
            log = handle.keep_logs(self._logs)
            if handle.last_progress is None and job.state in ENDED_BY_ITSELF:
                raise BenchError(
                    f"job {job.job_id} ended before it started its item; see {log}. If that file is missing, "
                    "give --out a folder that all nodes share under the same path"
                ) from error
            raise WorkerLostError from error
        finally:
            handle.remove_files()
        outcome, warnings = result
        for warning in warnings:
            logging.getLogger("bench").warning(warning)
        return outcome

    def _cancel(self, handle: SubmittedJob) -> None:
        handle.job.cancel(check=False)
