"""The listener that copies records to MLflow, and the rebuild of that copy from the records."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from bench.engine.execution.events import Event, ItemFinished, RunFinished, RunStarted
from bench.engine.tracking.mlflow_store import (
    ArtifactFiles,
    CellCounts,
    MLflowStore,
    StoredRun,
    failure_reason,
)
from bench.engine.tracking.record_to_mlflow import time_span
from bench.errors import BenchError
from bench.record import Record

USUAL_S = 1.0
"""Time that logging one thing may take."""

MAX_DELAY_S = 10.0
"""How long a run waits in all, beyond `USUAL_S` for each thing it logs, before it stops logging."""

THREAD_NAME = "tracking"


class Tracker:
    """A listener that logs every finished cell, and never stops the run.

    If MLflow or its store fails, or delays the run by more than `MAX_DELAY_S`, the user gets one message and
    nothing more is logged. The run waits while something is logged: timed work has the machine to itself.

    Args:
        uri: MLflow's tracking URI.
        suite: name of the suite, which is also that of the experiment.
        artifact_folder: for the artifacts, if the store is a database; by default ``mlartifacts`` next to an
            SQLite file.
        notify: called with the message for the user.
    """

    def __init__(
        self, uri: str, suite: str, artifact_folder: Path | None, notify: Callable[[str], None]
    ) -> None:
        self._uri = uri
        self._suite = suite
        self._artifact_folder = artifact_folder
        self._notify = notify
        self._store: MLflowStore | None = None
        self._cells = 0
        self._delay_left_s = MAX_DELAY_S
        self._gave_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark the suite's run as killed if the block was left with an error."""
        if kind is not None and self._store is not None:
            self._try(lambda store: store.set_suite_status(self._suite, "KILLED"))

    def __call__(self, event: Event) -> None:
        """Log each finished cell, and keep the status of the suite's run; without cells to do, do nothing."""
        match event:
            case RunStarted(counts=counts) if counts.get("cells", (0, 0))[0]:
                self._cells = sum(counts["cells"])
                self._try(lambda store: store.set_suite_status(self._suite, "RUNNING"))
            case RunFinished() if event.done + event.cached + event.failed < self._cells:
                self._try(lambda store: store.set_suite_status(self._suite, "KILLED"))
            case ItemFinished(kind="cells", record=Record() as record):
                self._try(lambda store: store.log_record(record, store.find_runs(record)))

    def finish_suite(self, records: Iterable[Record], make_files: Callable[[], ArtifactFiles]) -> None:
        """End the suite's run, with files about the whole suite.

        Args:
            records: all of the folder, of any suite, with or without their curves.
            make_files: returns the files; not called if nothing was logged.
        """
        if self._store is None or self._gave_up:
            return
        cells = CellCounts()
        for record in records:
            if record.suite == self._suite:
                cells.add(record)
        files = make_files()
        self._try(lambda store: store.finish_suite(self._suite, cells, files))

    def _try(self, action: Callable[[MLflowStore], object]) -> None:
        if self._gave_up:
            return
        try:
            store = self._store = self._store or MLflowStore(self._uri, self._artifact_folder)
            seconds = _run_with_timeout(lambda: action(store), USUAL_S + self._delay_left_s)
            self._delay_left_s -= max(0.0, seconds - USUAL_S)
        except Exception as error:  # a store raises whatever its driver raises
            self._gave_up = True
            reason = failure_reason(self._uri, error)
            self._notify(f"MLflow at {reason}; nothing more is logged. Run `bench track` later to catch up")


def _run_with_timeout(action: Callable[[], object], timeout_s: float) -> float:
    """Run an action in a thread and return the seconds it took.

    Raises:
        TimeoutError: if it takes longer; the thread then goes on alone, and does not keep the process alive.
        Exception: whatever the action raises.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # raised again in the thread that waits
            errors.append(error)

    thread, started = Thread(target=run, name=THREAD_NAME, daemon=True), time.perf_counter()
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {timeout_s:.0f} s")
    if errors:
        raise errors[0]
    return time.perf_counter() - started


def rebuild_mirror(
    uri: str,
    records: Iterable[Record],
    artifact_folder: Path | None = None,
    make_files: Callable[[], ArtifactFiles] = dict,
) -> tuple[int, int, int]:
    """Make MLflow show these records, each once.

    The complete run of an unchanged record is kept; incomplete and outdated runs are replaced.

    Args:
        uri: MLflow's tracking URI.
        records: what to show, of any suite; they are read one after the other.
        artifact_folder: as for `Tracker`.
        make_files: as for `Tracker.finish_suite`; the run of each suite gets the files.

    Returns:
        How many runs of cells were added, kept and replaced.

    Raises:
        BenchError: if MLflow or its store fails.
    """
    results: Counter[str] = Counter()
    runs: dict[str, dict[str, list[StoredRun]]] = {}
    cells: dict[str, CellCounts] = defaultdict(CellCounts)
    with _store_errors(uri):
        store = MLflowStore(uri, artifact_folder)
        for record in records:
            suite = record.suite
            if suite not in runs:
                runs[suite] = store.collect_runs(suite, start=time_span(record)[0])
            results[store.log_record(record, runs[suite].get(record.key, []))] += 1
            cells[suite].add(record)
    files = make_files()
    with _store_errors(uri):
        for suite, counts in cells.items():
            store.finish_suite(suite, counts, files)
    return results["added"], results["kept"], results["replaced"]


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    """Turn any error of a store into one sentence that names it."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # a store raises whatever its driver raises
        raise BenchError(f"cannot track: {failure_reason(uri, error)}") from error
