"""What runs are doing, for who asks from another terminal.

DIR/status/HOST-PID.json    one per run, written at most once a second, gone when it ends
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
from bench.files import write_atomically
from bench.record import Record, read_records
from bench.text import format_duration, to_one_line

SCHEMA = 1
"""Version of the file's layout."""

TICK_S = 1.0
"""A run looks this often for something new to write."""

HEARTBEAT_S = 5.0
"""It writes at least this often, so that one on another machine can be told from one that is gone."""

SILENT_S = 60.0
"""A run on another machine that has not written for so long is taken to be gone."""

_MIB = 2**20


@dataclass(frozen=True)
class Status:
    """What a run writes.

    Attributes:
        schema: see `SCHEMA`.
        host: name of the machine.
        pid: the process there.
        created: when the process was created, in seconds; tells it from a later one with its number.
        started: UTC time, ISO 8601.
        view: what it is doing.
    """

    schema: int
    host: str
    pid: NonNegativeInt
    created: FiniteFloat
    started: str
    view: ProgressSnapshot


@dataclass(frozen=True)
class FoundStatus:
    """A run's last word: whether the run is still there, and how many seconds old the word is."""

    status: Status
    alive: bool
    age_s: float


@contextlib.contextmanager
def publish_status(course: RunProgress, out: Path) -> Iterator[None]:
    """Keep the status file of this process up to date within the block; never fails it.

    Beside, the workers' memory is measured for the course, and what earlier runs know of the standings is
    told to it.
    """
    writer = _Writer(course, out)
    thread = threading.Thread(target=writer.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        writer.ended.set()
        thread.join()


def read_statuses(out: Path) -> list[FoundStatus]:
    """Return the last word of every run on a folder that has not ended properly, the earliest run first.

    A file that is no status is passed over.
    """
    found = [seen for path in (out / "status").glob("*.json") if (seen := _read(path)) is not None]
    return sorted(found, key=lambda seen: (seen.status.started, seen.status.pid))


def render_status(seen: FoundStatus, out: Path, width: int) -> RenderableType:
    """Return what a run that is still there is doing, for so many columns."""
    status, view = seen.status, seen.status.view
    head = to_one_line(f"{view.suite or 'a suite'} in {out}: {_count(view)}")
    who = (
        f"for {format_duration(view.seconds)}, since {status.started}, process {status.pid} on {status.host}"
    )
    return Group(Text(head, "bold"), Text(to_one_line(who), "dim"), render_snapshot(view, width))


def explain_absence(gone: Sequence[FoundStatus], out: Path) -> str:
    """Return the sentence on a folder no run is working on, from the last words of runs that are gone."""
    if not gone:
        count = sum(1 for _ in (out / "records").glob("*.json"))
        return f"no run is active in {out}; {count} cells have a record"
    status, age = gone[-1].status, max(0.0, gone[-1].age_s)
    last = f"process {status.pid} on {status.host} was last heard of {format_duration(age)} ago"
    return to_one_line(f"no run is active in {out}; {_count(status.view)}, the same command goes on ({last})")


def _count(view: ProgressSnapshot) -> str:
    failed = f", {view.cells_failed} failed" if view.cells_failed else ""
    return f"{view.cells_done} of {view.cells} cells are done{failed}"


class _Writer:
    """Writes the status file from a thread of its own, so that no event waits for the disk."""

    def __init__(self, course: RunProgress, out: Path) -> None:
        self.ended = threading.Event()
        self._course = course
        self._out = out
        self._host = platform.node()
        self._created = psutil.Process().create_time()
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        name = re.sub(r"[^\w.-]", "_", self._host)
        self._path = out / "status" / f"{name}-{os.getpid()}.json"
        self._earlier: Iterator[Record | BenchError] | None = None

    def run(self) -> None:
        """Write until the run has ended, then remove the file."""
        self._sweep()
        written, changes = -math.inf, -1
        while not self.ended.is_set():
            now = time.monotonic()
            if now - written >= HEARTBEAT_S:
                self._course.measure(worker_memory())
            if now - written >= HEARTBEAT_S or self._course.changes != changes:
                written, changes = now, self._course.changes
                self._write()
            self._read_earlier(until=now + TICK_S)
            self.ended.wait(max(0.0, now + TICK_S - time.monotonic()))
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write(self) -> None:
        status = Status(SCHEMA, self._host, os.getpid(), self._created, self._started, self._course.view())
        with contextlib.suppress(BenchError):  # a full disk is no reason to end a run
            write_atomically(self._path, json.dumps(asdict(status)))

    def _read_earlier(self, until: float) -> None:
        """Read some of the records that were there before, once it is known that cells are added to them."""
        if self._earlier is None:
            view = self._course.view()
            if not view.cells:
                return
            adds = 0 < view.cells_done < view.cells
            self._earlier = read_records(self._out / "records", curve=False) if adds else iter(())
        for record in self._earlier:
            if isinstance(record, Record):
                self._course.learn(record)
            if self.ended.is_set() or time.monotonic() >= until:
                return

    def _sweep(self) -> None:
        """Remove what runs that are gone have left."""
        for path in (self._out / "status").glob("*.json"):
            seen = _read(path)
            if seen is None or not seen.alive:
                for left in (path, *path.parent.glob(f".{path.name}.*.tmp")):
                    with contextlib.suppress(OSError):
                        left.unlink()


def worker_memory() -> tuple[float, ...]:
    """Return the resident memory in MiB of every worker process of this one, of itself where it has none."""
    me = psutil.Process()
    measured = []
    with contextlib.suppress(psutil.Error):
        for process in [child for child in me.children() if _is_worker(child)] or [me]:
            with contextlib.suppress(psutil.Error):  # it has just ended
                measured.append(process.memory_info().rss / _MIB)
    return tuple(measured)


def _is_worker(process: psutil.Process) -> bool:
    """Return whether a child is a worker, and not what multiprocessing or a tracker keeps beside."""
    try:
        return "--multiprocessing-fork" in process.cmdline()
    except psutil.Error:
        return False


def _read(path: Path) -> FoundStatus | None:
    try:
        age = time.time() - path.stat().st_mtime
        status = TypeAdapter(Status).validate_json(path.read_bytes())
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
        # A clock that was set moves the time of creation; then the age has to tell.
        return abs(process.create_time() - status.created) < 1 or age < SILENT_S
    except (psutil.Error, OverflowError):
        return False
