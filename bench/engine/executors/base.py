"""What executors have in common: the outcome of an item, and how an item is attempted."""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from bench.record import Failure
from bench.values import Progress

I = TypeVar("I")  # noqa: E741 - an item

R = TypeVar("R")

Work = Callable[[I, Progress], R]
"""What is done for one item, in whatever process; must be picklable for `Processes`, as the items."""

ReportProgress = Callable[[I, str, int, int], None]
"""Where progress goes: called in the parent, from any thread, as ``tell(item, what, done, total)``."""

PROGRESS_EVERY_S = 0.2
"""Workers report at most this often, so that fast epochs do not flood the parent."""


@dataclass(frozen=True)
class Outcome(Generic[I, R]):
    """One finished item: its result or its failure, and how long it took."""

    item: I
    result: R | None
    failure: Failure | None
    seconds: float


class Executor(Protocol):
    """Where work runs: a context manager that ends its workers, and a lazy map."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def map(self, work: Work[I, R], items: Iterable[I], tell: ReportProgress[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item as it finishes; lazily, so that each can be saved before the next.

        Items are pulled one at a time, in the thread that asks for outcomes and only when a worker is free:
        whoever makes the items decides at that moment what comes next.
        """


def attempt_item(work: Work[I, R], item: I, progress: Progress) -> Outcome[I, R]:
    """Do an item's work; return its result, or what it raised, and the seconds it took."""
    start = time.perf_counter()
    try:
        result, failure = work(item, progress), None
    except Exception as error:
        result, failure = None, describe_failure(error)
    return Outcome(item, result, failure, time.perf_counter() - start)


def describe_failure(error: BaseException) -> Failure:
    """Return an exception as what a record keeps of it."""
    return Failure(
        type=type(error).__name__,
        message=str(error) or type(error).__name__,
        traceback="".join(traceback.format_exception(error)),
    )


WORKER_DIED = Failure(
    type="WorkerDied", message="the worker process died (killed, or out of memory)", traceback=""
)


def time_limit_failure(limit_s: float) -> Failure:
    """Return why an item failed that took longer than the time limit, in seconds."""
    return Failure(
        type="TimeLimit", message=f"it took longer than the time limit of {limit_s:g} s", traceback=""
    )


class WarningForwarder(logging.Handler):
    """Sends a worker's warnings to the parent, which shows each once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning's text."""
        self._say(record.getMessage())


def throttle_progress(say: Callable[[object], None]) -> Progress:
    """Return what passes an item's steps on, the first and the last of a kind and few of those between."""
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0, total) or now - last >= PROGRESS_EVERY_S:
            last = now
            say((what, done, total))

    return report
