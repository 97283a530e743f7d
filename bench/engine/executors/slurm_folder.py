"""The folder through which a run and its Slurm jobs exchange tasks, progress and results.

submitit passes tasks and results as pickles, which can run any code when they are loaded. So nothing in the
store is ever unpickled, since it may come from anywhere. These pickles come only from this process and its
jobs: they are in a folder of this run that only its user may enter, and are removed once they are read.
"""

import contextlib
import json
import math
import re
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

from bench.engine.executors.base import Message, Outcome
from bench.engine.executors.remote import RemoteTask
from bench.errors import BenchError
from bench.files import remove_own_folder, write_atomically

WRITE_EVERY_S: Final = 2.0
"""How often a job writes its progress, each time to a file on a shared disk."""

LOCK: Final = re.compile(r"([0-9a-f]{32})\.lock")
"""The lock of a run's private folder, with the folder's name."""

SUBMITTED: Final = re.compile(r"(\d+(?:_\d+)?)_submitted\.pkl")
"""The file in which submitit passes a task, with the job's number."""

EXCHANGED: Final = re.compile(r"(\d+(_\w+)?|\.?(submission_file_)?[0-9a-f]{32})(\.\w+)+")
"""What submitit and this module write to a private folder: names with a job's number, or a random one."""


@dataclass(eq=False)
class SubmittedJob:
    """A job, the file of its progress, and what was last read from it."""

    job: Job[Any]
    progress_file: Path
    last_progress: str | None = None

    def read_messages(self) -> Iterator[Message]:
        """Yield what is new: None when the job has started, then steps."""
        with contextlib.suppress(FileNotFoundError):
            progress = self.progress_file.read_text(encoding="utf-8")
            if self.last_progress is None:
                yield None
            if progress != self.last_progress:
                self.last_progress = progress
                yield json.loads(progress)

    def keep_logs(self, folder: Path) -> Path:
        """Move the job's output to another folder; return the path of its error output."""
        for path in (self.job.paths.stdout, self.job.paths.stderr):
            with contextlib.suppress(FileNotFoundError):
                path.replace(folder / path.name)
        return folder / self.job.paths.stderr.name

    def remove_files(self) -> None:
        """Remove the job's files."""
        for path in (self.progress_file, *self.progress_file.parent.glob(f"{self.job.job_id}_*")):
            path.unlink(missing_ok=True)


@contextmanager
def private_folder(logs: Path) -> Iterator[Path]:
    """Make a folder of this run and hold its lock, which shows other runs that this one is alive."""
    folder = logs / uuid.uuid4().hex
    with FileLock(f"{folder}.lock") as lock:
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def cancel_orphans(logs: Path) -> None:
    """Cancel the jobs of killed runs and remove their folders; live runs are not touched.

    Every name is checked: other files may be somebody else's, and no name becomes an option of ``scancel``.
    """
    for lock_file in logs.glob("*.lock"):
        name = LOCK.fullmatch(lock_file.name)
        folder = lock_file.with_suffix("")
        if name is None or folder.is_symlink():
            continue
        with contextlib.suppress(Timeout), FileLock(lock_file, timeout=0):
            found = [SUBMITTED.fullmatch(path.name) for path in folder.glob("*")]
            jobs = [match[1] for match in found if match]
            if jobs and shutil.which("scancel"):
                subprocess.run(["scancel", *jobs], check=False, capture_output=True)
            remove_own_folder(folder, [path for path in folder.glob("*") if EXCHANGED.fullmatch(path.name)])
            lock_file.unlink(missing_ok=True)


def run_in_job(task: RemoteTask, progress_file: Path) -> tuple[Outcome[Any, Any], list[str]]:
    """Run a task in a job; return its outcome and its warnings.

    Raises:
        UncompletedJobError: when the job's time on Slurm is over.
    """
    warnings: list[str] = []
    written_at = -math.inf

    def send(message: Message) -> None:
        nonlocal written_at
        if isinstance(message, str):
            warnings.append(message)
        elif time.monotonic() >= written_at + WRITE_EVERY_S:
            written_at = time.monotonic()
            with contextlib.suppress(BenchError):  # a full disk: the work itself fails if it needs the disk
                write_atomically(progress_file, json.dumps(message))

    outcome = task.run(send)
    # submitit raises it in the middle of the work, which reports it as its own failure.
    if outcome.failure and outcome.failure["type"] == UncompletedJobError.__name__:
        raise UncompletedJobError(outcome.failure["message"])
    return outcome, warnings
