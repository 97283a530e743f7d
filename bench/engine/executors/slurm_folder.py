"""The folder through which a run and its Slurm jobs talk.

submitit hands errands to jobs and their results back as pickles. Nothing of the store is ever unpickled:
it may come from anywhere, and a pickle does whatever it likes. These come from this process and its own jobs
alone: they lie in a folder of this run that nobody but its user may enter, and go as soon as they are read.
"""

import contextlib
import json
import math
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from submitit import Job
from submitit.core.utils import UncompletedJobError

from bench.engine.executors.base import Outcome
from bench.engine.executors.remote import RemoteTask
from bench.errors import BenchError
from bench.files import write_atomically

SPEAK_EVERY_S: Final = 2.0
"""How often a job writes how far it is; each time is a file on a shared disk."""

SUBMITTED: Final = "_submitted.pkl"
"""How submitit names, after a job's number, what it hands to it."""


@dataclass(eq=False)
class SubmittedJob:
    """A job, the file in which it says how far it is, and what was read there last."""

    job: Job[Any]
    step: Path
    heard: str | None = None

    def hear(self) -> Iterator[object]:
        """Yield what is new: None as it has begun, then steps."""
        with contextlib.suppress(FileNotFoundError):
            said = self.step.read_text(encoding="utf-8")
            if self.heard is None:
                yield None
            if said != self.heard:
                self.heard = said
                yield json.loads(said)

    def keep_logs(self, folder: Path) -> Path:
        """Move the job's output to a folder that stays; return the place of its errors."""
        for path in (self.job.paths.stdout, self.job.paths.stderr):
            with contextlib.suppress(FileNotFoundError):
                path.replace(folder / path.name)
        return folder / self.job.paths.stderr.name

    def clear(self) -> None:
        """Remove the files of the job."""
        for path in (self.step, *self.step.parent.glob(f"{self.job.job_id}_*")):
            path.unlink(missing_ok=True)


@contextmanager
def private_folder(logs: Path) -> Iterator[Path]:
    """Make a folder of this run and hold its lock, which tells others that the run lives."""
    folder = logs / uuid.uuid4().hex
    with FileLock(f"{folder}.lock") as lock:
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def cancel_orphans(logs: Path) -> None:
    """Cancel the jobs of runs that were killed and remove their folders; those that live are left alone."""
    for locked in logs.glob("*.lock"):
        with contextlib.suppress(Timeout), FileLock(locked, timeout=0):
            folder = locked.with_suffix("")
            jobs = [path.name.removesuffix(SUBMITTED) for path in folder.glob(f"*{SUBMITTED}")]
            if jobs and shutil.which("scancel"):
                subprocess.run(["scancel", *jobs], check=False, capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
            locked.unlink(missing_ok=True)


def run_in_job(errand: RemoteTask, step: Path) -> tuple[Outcome[Any, Any], list[str]]:
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
