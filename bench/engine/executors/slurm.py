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

from bench.engine.executors.base import Outcome
from bench.engine.executors.remote import RemoteExecutor, RemoteTask, WorkerLostError
from bench.engine.executors.slurm_folder import SubmittedJob, cancel_orphans, private_folder, run_in_job
from bench.errors import BenchError

POLL_EVERY_S: Final = 0.5
"""How often the folder is searched for results."""

JOBS: Final = 16
"""How many jobs there are at a time unless something else is wanted."""

BY_THEMSELVES: Final = ("FAILED", "COMPLETED", "FINISHED")
"""States of jobs that nothing but what they did has ended."""


class Slurm(RemoteExecutor[SubmittedJob]):
    """Jobs of a Slurm cluster; those that are left at the end are canceled.

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
        cancel_orphans(self._logs)
        with ExitStack() as block:
            self._witness = block.enter_context(private_folder(self._logs))
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

    def _send(self, errands: list[RemoteTask]) -> list[SubmittedJob]:
        steps = [self._witness / f"{uuid.uuid4().hex}.step" for _ in errands]
        try:
            jobs = self._executor.map_array(run_in_job, errands, steps)
        except (UncompletedJobError, FailedSubmissionError, OSError) as error:
            raise BenchError(f"the jobs were not taken: {' '.join(str(error).split())}") from error
        return [SubmittedJob(job, step) for job, step in zip(jobs, steps, strict=True)]

    def _wait(self, handles: Collection[SubmittedJob]) -> list[SubmittedJob]:
        finished = [sent for sent in handles if sent.job.done()]
        if not finished:
            time.sleep(POLL_EVERY_S)
        return finished

    def _hear(self) -> Iterator[tuple[Any, Any]]:
        for sent in self._under_way:
            yield from ((sent, word) for word in sent.hear())

    def _fetch(self, handle: SubmittedJob) -> Outcome[Any, Any]:
        job = handle.job
        if self._cluster == "local":
            job._results_timeout_s = 0  # what is not on this machine's disk by now never will be
        try:
            result: tuple[Outcome[Any, Any], list[str]] = job.result()
        except UncompletedJobError as error:
            log = handle.keep_logs(self._logs)
            if handle.heard is None and job.state in BY_THEMSELVES:
                raise BenchError(
                    f"job {job.job_id} ended before it began its item; see {log}, and if that is not there: "
                    "give --out a folder that all nodes share under the same path"
                ) from error
            raise WorkerLostError from error
        finally:
            handle.clear()
        outcome, warnings = result
        for sentence in warnings:
            logging.getLogger("bench").warning(sentence)
        return outcome

    def _end(self, handle: SubmittedJob) -> None:
        handle.job.cancel(check=False)
