"""What no event tells the progress of a run: the memory of its workers, and the records of earlier runs."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.engine.monitoring.progress import RunProgress
from bench.record import Record, read_records

MEMORY_EVERY_S = 5.0
"""Time between two measurements of memory."""

POLL_S = 1.0
"""Time between two looks whether the run has started."""

_MIB = 2**20


@contextlib.contextmanager
def observe_run(progress: RunProgress, out: Path) -> Iterator[None]:
    """Add workers' memory and earlier records to a run's progress, in the background, within the block."""
    ended = threading.Event()
    threads = [
        threading.Thread(target=_measure_memory, args=(progress, ended), daemon=True),
        threading.Thread(target=_add_earlier_records, args=(progress, out, ended), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _measure_memory(progress: RunProgress, ended: threading.Event) -> None:
    while not ended.is_set():
        progress.memory_mib = worker_memory()
        ended.wait(MEMORY_EVERY_S)


def _add_earlier_records(progress: RunProgress, out: Path, ended: threading.Event) -> None:
    """Read the records of earlier runs, but only if this run adds cells to them."""
    while not (snapshot := progress.snapshot()).cells:
        if ended.wait(POLL_S):
            return
    if not 0 < snapshot.cells_done < snapshot.cells:
        return
    for record in read_records(out / "records", curve=False):
        if ended.is_set():
            return
        if isinstance(record, Record):
            progress.add_earlier_record(record)


def worker_memory() -> tuple[float, ...]:
    """Return the resident memory in MiB of every worker of this process, or its own if it has no workers."""
    this = psutil.Process()
    measured = []
    with contextlib.suppress(psutil.Error):
        for process in [child for child in this.children() if _is_worker(child)] or [this]:
            with contextlib.suppress(psutil.Error):  # it has just ended
                measured.append(process.memory_info().rss / _MIB)
    return tuple(measured)


def _is_worker(process: psutil.Process) -> bool:
    """Return whether a child is a worker, and not a helper process of multiprocessing or of a tracker."""
    try:
        return "--multiprocessing-fork" in process.cmdline()
    except psutil.Error:
        return False
