"""The listener that shows records in a sink, and the rebuild of what it shows from the records."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from bench.engine.execution.events import Event, ItemFinished, RunFinished, RunStarted
from bench.engine.tracking.record_values import time_span, truncate
from bench.engine.tracking.sink import (
    CellCounts,
    Destination,
    LogResult,
    Sink,
    SuiteStatus,
    TaskProtections,
    TrackedBoard,
)
from bench.errors import BenchError
from bench.record import Record, read_record, read_records

USUAL_S = 1.0
"""Time that logging one thing may take."""

MAX_DELAY_S = 10.0
"""How long a run waits in all, beyond `USUAL_S` for each thing it logs, before it stops logging."""

THREAD_NAME = "tracking"


class Tracker:
    """A listener that shows every finished cell in a sink, and never stops the run.

    If the sink fails, or delays the run by more than `MAX_DELAY_S`, the user gets one message and nothing
    more is logged. The run waits while something is logged: timed work has the machine to itself.

    Args:
        destination: where to show the records.
        suite: its name.
        add_record: is given every record, also those of earlier runs; returns, by key, the protections of
            the cells that have one now and had none before.
        notify: called with the message for the user.
    """

    def __init__(
        self,
        destination: Destination,
        suite: str,
        add_record: Callable[[Record], Mapping[str, TaskProtections]],
        notify: Callable[[str], None],
    ) -> None:
        self._destination = destination
        self._suite = suite
        self._add_record = add_record
        self._notify = notify
        self._sink: Sink | None = None
        self._folder: Path | None = None
        self._cells = 0
        self._logged: dict[str, TaskProtections] = {}
        self._delay_left_s = MAX_DELAY_S
        self._gave_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark the suite's run as killed if the block was left with an error."""
        if kind is not None and self._sink is not None:
            self._set_status("KILLED")

    def __call__(self, event: Event) -> None:
        """Log each finished cell, and keep the status of the suite's run; without cells to do, do nothing."""
        match event:
            case RunStarted(counts=counts) if counts.get("cells", (0, 0))[0]:
                self._cells = sum(counts["cells"])
                self._folder = Path(event.out, "records")
                self._set_status("RUNNING")
                if counts["cells"][1] and not self._gave_up:
                    for record in read_records(self._folder, curve=False):
                        if isinstance(record, Record):
                            self._add_record(record)
            case RunFinished() if event.done + event.cached + event.failed < self._cells:
                self._set_status("KILLED")
            case ItemFinished(kind="cells", record=Record() as record) if not self._gave_up:
                protections = dict(self._add_record(record))
                self._log(record, protections.pop(record.key, {}))
                for key, by_task in protections.items():
                    self._log_again(key, by_task)

    def finish_suite(self, records: Iterable[Record], make_board: Callable[[], TrackedBoard]) -> None:
        """Show the board of the suite, and every protection that has changed since it was logged.

        Args:
            records: all of the folder, of any suite, with or without their curves.
            make_board: returns the board; not called if nothing was logged.
        """
        if self._sink is None or self._gave_up:
            return
        own = [record for record in records if record.suite == self._suite]
        board, cells = make_board(), CellCounts.of(own)
        for record in own:
            by_task = board.cells.get(record.key, {})
            if self._logged.get(record.key) != by_task:
                self._log_again(record.key, by_task)
        self._try(lambda sink: sink.finish_suite(self._suite, cells, board))

    def _set_status(self, status: SuiteStatus) -> None:
        self._try(lambda sink: sink.set_suite_status(self._suite, status))

    def _log(self, record: Record, protections: TaskProtections) -> None:
        self._logged[record.key] = protections
        self._try(lambda sink: sink.log_record(record, protections))

    def _log_again(self, key: str, protections: TaskProtections) -> None:
        """Log a record of the folder whose protections have changed."""
        if self._folder is not None and not self._gave_up:
            with suppress(BenchError):  # a damaged record: the next run makes it again
                self._log(read_record(self._folder / f"{key}.json"), protections)

    def _try(self, action: Callable[[Sink], object]) -> None:
        if self._gave_up:
            return
        try:
            sink = self._sink = self._sink or self._destination.connect()
            seconds = _run_with_timeout(lambda: action(sink), USUAL_S + self._delay_left_s)
            self._delay_left_s -= max(0.0, seconds - USUAL_S)
        except Exception as error:  # a sink raises whatever its library raises
            self._gave_up = True
            reason = failure_reason(self._destination, error)
            self._notify(f"{reason}; nothing more is logged. Run `bench track` later to catch up")


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
    destination: Destination,
    records: Iterable[Record],
    board: TrackedBoard = TrackedBoard(),  # noqa: B008 - immutable
) -> Counter[LogResult]:
    """Make a sink show these records, each once.

    What is shown of an unchanged record is kept if it is complete, and replaced if not.

    Args:
        destination: where to show the records.
        records: what to show, of any suite; they are read one after the other.
        board: what is shown of every suite, and the protections of the records.

    Returns:
        How many cells were added, kept and replaced.

    Raises:
        BenchError: if the sink fails.
    """
    results: Counter[LogResult] = Counter()
    cells: dict[str, CellCounts] = {}
    with _sink_errors(destination):
        sink = destination.connect()
        for record in records:
            suite = record.suite
            if suite not in cells:
                sink.prepare_suite(suite, time_span(record)[0])
                cells[suite] = CellCounts()
            results[sink.log_record(record, board.cells.get(record.key, {}))] += 1
            cells[suite].add(record)
        for suite, counts in cells.items():
            sink.finish_suite(suite, counts, board)
    return results


@contextmanager
def _sink_errors(destination: Destination) -> Iterator[None]:
    """Turn any error of a sink into one sentence that names it."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # a sink raises whatever its library raises
        raise BenchError(f"cannot track: {failure_reason(destination, error)}") from error


def failure_reason(destination: Destination, error: BaseException) -> str:
    """Return in one line which sink failed and why, without the user and password of a URI."""
    cause, step = error, error.__cause__ or error.__context__
    while step is not None:  # "connection refused" lies below several layers of a client
        cause, step = step if isinstance(step, OSError) else cause, step.__cause__ or step.__context__
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    text = truncate(lines[0], 200)
    advice = "".join(f"; {what}" for part, what in destination.advice.items() if part in text)
    return re.sub(r"//[^/@\s]+@", "//", f"{destination.name} failed: {text}{advice}")
