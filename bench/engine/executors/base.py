"""What executors share: the outcome of an item, how it is attempted, and what a worker sends its parent."""

import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from bench.errors import error_text
from bench.record import Failure
from bench.text import escape_bytes

if TYPE_CHECKING:  # importing values imports torch, which a worker does only once it can end with its parent
    from bench.values import Progress

I = TypeVar("I")  # noqa: E741 - an item

R = TypeVar("R")

NextItem = Callable[[], I | None]
"""Returns the next item to work on, None if there is none at this moment."""

Work = Callable[[I, "Progress"], R]
"""What is done for one item. For workers in other processes, it and the items must be picklable."""

ReportProgress = Callable[[I, str, int, int], None]
"""Receives progress in the parent, from any thread, as ``report(item, what, done, total)``."""

Message = str | tuple[str, int, int] | None
"""What a worker sends: None when it starts its item, a step (what, done, total), or a warning's text."""

SendMessage = Callable[[Message], None]

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

    def map(
        self, work: Work[I, R], next_item: NextItem[I], report: ReportProgress[I]
    ) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item as it finishes; lazily, so that each can be saved before the next.

        ``next_item`` is called in the thread that iterates, once for every free worker. After it has
        returned None, it is called again after the next outcome, or sooner. The map ends when it returns None
        while no item is in progress.
        """


def attempt_item(work: Work[I, R], item: I, progress: "Progress") -> Outcome[I, R]:
    """Do an item's work; return its result or what it raised, and the seconds it took.

    Only Ctrl-C gets through: an item whose code calls ``sys.exit(0)`` fails, and the run goes on.
    """
    start = time.perf_counter()
    try:
        result, failure = work(item, progress), None
    except BaseException as error:
        if _is_from_user(error):
            raise
        result, failure = None, describe_failure(error)
    return Outcome(item, result, failure, time.perf_counter() - start)


def _is_from_user(error: BaseException) -> bool:
    """Return whether Ctrl-C has raised an error; no other signal handler of the program raises one."""
    return (
        isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def describe_failure(error: BaseException) -> Failure:
    """Return an exception in the form that a record stores."""
    name, text = type(error).__name__, error_text(error)
    return Failure(
        type=name,
        # What ends programs often has only a number as its text.
        message=(text or name) if isinstance(error, Exception) else f"it raised {name}({text})",
        traceback=_format_traceback(error),
    )


def _format_traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(error)
    except Exception:  # it reads attributes of the exception, which may fail like its text
        lines = traceback.format_tb(error.__traceback__)
    return escape_bytes("".join(lines))


WORKER_DIED = Failure(
    type="WorkerDied", message="the worker process died (killed, or out of memory)", traceback=""
)


def time_limit_failure(limit_s: float) -> Failure:
    """Return the failure of an item that took longer than the time limit, in seconds."""
    return Failure(
        type="TimeLimit", message=f"it took longer than the time limit of {limit_s:g} s", traceback=""
    )


def run_in_worker(work: Work[I, R], item: I, send: SendMessage) -> Outcome[I, R]:
    """Do an item's work in a worker that sends its start, its progress and its warnings to the parent."""
    logger, handler = logging.getLogger("bench"), _WarningSender(send)
    logger.addHandler(handler)
    try:
        send(None)
        return attempt_item(work, item, _throttle_progress(send))
    finally:
        logger.removeHandler(handler)


def handle_message(message: Message, item: I, report: ReportProgress[I]) -> None:
    """Log a worker's warning in the parent, or report its step."""
    match message:
        case str():
            logging.getLogger("bench").warning(message)
        case (what, done, total):
            report(item, what, done, total)


class _WarningSender(logging.Handler):
    def __init__(self, send: SendMessage) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(record.getMessage())


def _throttle_progress(send: SendMessage) -> "Progress":
    """Return a callback that sends the first and the last step of a kind, and few of those between."""
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0, total) or now - last >= PROGRESS_EVERY_S:
            last = now
            send((what, done, total))

    return report
