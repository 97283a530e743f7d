"""The listener that mirrors records to MLflow, and the rebuild of the mirror from the records."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bench.engine.execution.events import Event, ItemFinished, RunFinished, RunStarted
from bench.errors import BenchError
from bench.record import Record

if TYPE_CHECKING:
    pass
from bench.engine.tracking.convert import time_span
from bench.engine.tracking.mlflow_store import (
    ArtifactFiles,
    CellCounts,
    MLflowStore,
    PutResult,
    StoredRun,
    failure_reason,
)

USUAL_S = 1.0
"""What logging one thing may take."""

PATIENCE_S = 10.0
"""How long a run waits in all, beyond `USUAL_S` for each thing it logs, before it goes on without a store."""

THREAD = "tracking"
"""Name of a thread in which something is logged."""


class Tracker:
    """A listener that logs every finished cell, and never stops the run.

    Where MLflow or its store fails, or takes longer than `PATIENCE_S`, the user is told once and nothing more
    is logged. The run waits for each thing to be logged: what is timed next has the machine to itself.

    Args:
        uri: MLflow's tracking URI.
        suite: name of the suite, which is the experiment's.
        artifacts: folder of the experiment's artifacts, for a store that is a database; by default
            ``mlartifacts`` beside an SQLite file.
        notice: called with the sentence for the user.
    """

    def __init__(self, uri: str, suite: str, artifacts: Path | None, notice: Callable[[str], None]) -> None:
        self._uri = uri
        self._suite = suite
        self._artifacts = artifacts
        self._notice = notice
        self._mirror: MLflowStore | None = None
        self._cells = 0
        self._patience = PATIENCE_S
        self._away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark the suite's run as killed where the run did not come to its end."""
        if kind is not None and self._mirror is not None:
            self._try(lambda mirror: mirror.mark(self._suite, "KILLED"))

    def __call__(self, event: Event) -> None:
        """Open the store when cells are to come, log the record of each, and note where the run stopped."""
        match event:
            case RunStarted(waves=waves) if waves.get("cells", (0, 0))[0]:
                self._cells = sum(waves["cells"])
                self._try(lambda mirror: mirror.mark(self._suite, "RUNNING"))
            case RunFinished() if event.done + event.cached + event.failed < self._cells:
                self._try(lambda mirror: mirror.mark(self._suite, "KILLED"))
            case ItemFinished(wave="cells", record=Record() as record):
                self._try(lambda mirror: mirror.put(record, mirror.find(record)))

    def conclude(self, records: Iterable[Record], exhibits: Callable[[], ArtifactFiles]) -> None:
        """End the suite's run, with files about the whole of it.

        Args:
            records: all of the folder, of any suites, with or without their curves.
            exhibits: returns the files; not called where nothing was logged.
        """
        if self._mirror is None or self._away:
            return
        tally = CellCounts()
        for record in records:
            if record.suite == self._suite:
                tally.add(record)
        files = exhibits()
        self._try(lambda mirror: mirror.conclude(self._suite, tally, files))

    def _try(self, action: Callable[["MLflowStore"], object]) -> None:
        if self._away:
            return
        try:
            mirror = self._mirror = self._mirror or MLflowStore(self._uri, self._artifacts)
            took = _run_with_timeout(lambda: action(mirror), USUAL_S + self._patience)
            self._patience -= max(0.0, took - USUAL_S)
        except Exception as error:  # a store raises whatever its driver does
            self._away = True
            away = f"the tracker at {failure_reason(self._uri, error)}"
            self._notice(f"{away}; nothing more is logged, run `bench track` to catch up")


def _run_with_timeout(action: Callable[[], object], seconds: float) -> float:
    """Run an action in a thread of its own and return the seconds it took.

    Raises:
        _SlowError: when it takes longer. It is left to itself then, and does not keep the process alive.
        Exception: whatever the action raises.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            action()
        except BaseException as error:  # raised again where it is waited for
            raised.append(error)

    thread, started = Thread(target=work, name=THREAD, daemon=True), time.perf_counter()
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _SlowError(f"no answer within {seconds:.0f} s")
    if raised:
        raise raised[0]
    return time.perf_counter() - started


class _SlowError(Exception):
    """A store did not answer in time."""


def rebuild_mirror(
    uri: str,
    records: Iterable[Record],
    artifacts: Path | None = None,
    exhibits: Callable[[], ArtifactFiles] = dict,
) -> tuple[int, int, int]:
    """Make the mirror show these records, each once.

    A complete run of an unchanged record is kept; incomplete and outdated ones are logged anew.

    Args:
        uri: MLflow's tracking URI.
        records: what to show, of any suites; they are taken one after the other.
        artifacts: as for `Tracker`.
        exhibits: as for `Tracker.conclude`; each suite's run gets the files.

    Returns:
        How many runs of cells were added, kept and replaced.

    Raises:
        BenchError: when MLflow or its store fails.
    """
    counts: dict[PutResult, int] = {"added": 0, "kept": 0, "replaced": 0}
    known: dict[str, dict[str, list[StoredRun]]] = {}
    tallies: dict[str, CellCounts] = defaultdict(CellCounts)
    with _name_store_in_errors(uri):
        mirror = MLflowStore(uri, artifacts)
        for record in records:
            suite = record.suite
            if suite not in known:
                known[suite] = mirror.gather(suite, since=time_span(record)[0])
            counts[mirror.put(record, known[suite].get(record.key, []))] += 1
            tallies[suite].add(record)
    files = exhibits()
    with _name_store_in_errors(uri):
        for suite, tally in tallies.items():
            mirror.conclude(suite, tally, files)
    return counts["added"], counts["kept"], counts["replaced"]


@contextmanager
def _name_store_in_errors(uri: str) -> Iterator[None]:
    """Say in one sentence which store failed."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # a store raises whatever its driver does
        raise BenchError(f"cannot track: {failure_reason(uri, error)}") from error
