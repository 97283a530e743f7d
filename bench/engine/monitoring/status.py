"""The status of runs, for other terminals.

DIR/status/HOST-PID.json    one per run, written at most once a second, removed when the run ends
"""

import contextlib
import json
import math
import os
import platform
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from rich.console import Group, RenderableType
from rich.text import Text

from bench.engine.monitoring.console import render_snapshot
from bench.engine.monitoring.progress import ProgressSnapshot, RunProgress
from bench.errors import BenchError
from bench.files import require_file, write_atomically
from bench.text import format_duration, to_one_line

SCHEMA = 3
"""Version of the file's layout."""

TICK_S = 1.0
"""A run writes at most this often, when something has changed."""

HEARTBEAT_S = 5.0
"""A run writes at least this often, so that other machines see that it is alive."""

SILENT_S = 60.0
"""A run on another machine that has not written for so long counts as dead."""


@dataclass(frozen=True)
class Status:
    """What a run writes.

    Attributes:
        schema: see `SCHEMA`.
        host: name of the machine.
        pid: the process there.
        created: when the process was created, in seconds; another process may get its number later.
        started: UTC time, ISO 8601.
        progress: what it is doing.
    """

    schema: int
    host: str
    pid: NonNegativeInt
    created: FiniteFloat
    started: str
    progress: ProgressSnapshot


@dataclass(frozen=True)
class FoundStatus:
    """The last status of a run, whether the run is alive, and the age of the status in seconds."""

    status: Status
    alive: bool
    age_s: float


@contextlib.contextmanager
def publish_status(progress: RunProgress, out: Path) -> Iterator[None]:
    """Keep the status file of this process up to date within the block, from a thread of its own.

    No event waits for the disk, and a file that cannot be written does not stop the run.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_write_until, args=(ended, progress, out / "status"), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write_until(ended: threading.Event, progress: RunProgress, folder: Path) -> None:
    _remove_dead_files(folder)
    host, pid, created = platform.node(), os.getpid(), psutil.Process().create_time()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    path = folder / _file_name(host, pid)
    written, changes = -math.inf, -1
    while not ended.is_set():
        now = time.monotonic()
        if now - written >= HEARTBEAT_S or progress.changes != changes:
            written, changes = now, progress.changes
            status = Status(SCHEMA, host, pid, created, started, progress.snapshot())
            with contextlib.suppress(BenchError):  # a full disk is no reason to end a run
                write_atomically(path, json.dumps(asdict(status)))
        ended.wait(TICK_S)
    with contextlib.suppress(OSError):
        path.unlink()


def _file_name(host: str, pid: int) -> str:
    safe_host = re.sub(r"[^\w.-]", "_", host)
    return f"{safe_host}-{pid}.json"


def _remove_dead_files(folder: Path) -> None:
    """Remove the files of runs that were killed; any other file may be somebody else's."""
    for path in folder.glob("*.json"):
        found = _read_status(path)
        if found is None or found.alive or path.name != _file_name(found.status.host, found.status.pid):
            continue
        for file in (path, path.with_name(f".{path.name}.{found.status.pid}.tmp")):
            with contextlib.suppress(OSError):
                file.unlink()


def read_statuses(out: Path) -> list[FoundStatus]:
    """Return the status of every run on a folder that works or was killed, the earliest run first.

    Files that are not a valid status are ignored.
    """
    found = [status for path in (out / "status").glob("*.json") if (status := _read_status(path)) is not None]
    return sorted(found, key=lambda one: (one.status.started, one.status.pid))


def _read_status(path: Path) -> FoundStatus | None:
    try:
        age = time.time() - path.stat().st_mtime
        status = TypeAdapter(Status).validate_json(require_file(path).read_bytes())
    except (OSError, ValidationError):
        return None
    return FoundStatus(status, _is_alive(status, age), age) if status.schema == SCHEMA else None


def _is_alive(status: Status, age: float) -> bool:
    if status.host != platform.node():
        return age < SILENT_S
    try:
        process = psutil.Process(status.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # If the system clock was set, the time of creation differs; then the age decides.
        return abs(process.create_time() - status.created) < 1 or age < SILENT_S
    except (psutil.Error, OverflowError):
        return False


def render_status(found: FoundStatus, out: Path, width: int) -> RenderableType:
    """Return what an active run is doing, as text of the given width."""
    status, progress = found.status, found.status.progress
    title = f"{progress.suite or 'a suite'} in {out}: {_cell_count(progress)}"
    process = f"process {status.pid} on {status.host}"
    subtitle = f"running for {format_duration(progress.seconds)}, since {status.started}, {process}"
    return Group(
        Text(to_one_line(title), "bold"),
        Text(to_one_line(subtitle), "dim"),
        render_snapshot(progress, width),
    )


def explain_absence(dead: Sequence[FoundStatus], out: Path) -> str:
    """Return a sentence on a folder without an active run; ``dead`` are the runs that were killed there."""
    if not dead:
        return f"no run is active in {out}; {count_records(out)} cells have a record"
    status, age = dead[-1].status, max(0.0, dead[-1].age_s)
    return to_one_line(
        f"no run is active in {out}; {_cell_count(status.progress)}. Repeat the same command to continue "
        f"(process {status.pid} on {status.host} last reported {format_duration(age)} ago)"
    )


def count_records(out: Path) -> int:
    """Return the number of records in a run's folder, without reading them."""
    return sum(1 for _ in (out / "records").glob("*.json"))


def _cell_count(progress: ProgressSnapshot) -> str:
    failed = f", {progress.cells_failed} failed" if progress.cells_failed else ""
    return f"{progress.cells_done} of {progress.cells} cells are done{failed}"
