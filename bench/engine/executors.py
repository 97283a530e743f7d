"""Executors: generator maps that take work and items and yield results as they finish."""

import contextlib
import logging
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import Queue
from typing import Any, Generic, Protocol, Self, TypeVar

from bench.api import Progress
from bench.record import Failure

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")
Work = Callable[[I, Progress], R]
"""What is done for one item, in whatever process; must be picklable for `Processes`."""

Tell = Callable[[I, str, int, int], None]
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

    def map(self, work: Work[I, R], items: Sequence[I], tell: Tell[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item as it finishes; lazily, so that each can be saved before the next."""


def _attempt(work: Work[I, R], item: I, progress: Progress) -> Outcome[I, R]:
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


@dataclass(frozen=True)
class Inline:
    """Everything in this process, one item after the other."""

    threads: int = 1

    def __enter__(self) -> Self:
        import torch

        torch.set_num_threads(self.threads)
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to end."""

    def map(self, work: Work[I, R], items: Sequence[I], tell: Tell[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, in order."""
        for item in items:
            yield _attempt(work, item, partial(tell, item))


class Processes:
    """Worker processes on this machine, kept from wave to wave.

    A worker that dies (killed, out of memory) breaks the pool; the items that were under way are then tried
    once more, one at a time, so that only the one that kills its worker fails.
    """

    def __init__(self, jobs: int, threads: int = 1) -> None:
        """Take the number of workers and the CPU threads of each."""
        self._jobs = jobs
        self._threads = threads
        self._context = multiprocessing.get_context("spawn")
        self._pool: ProcessPoolExecutor | None = None
        self._reports: Queue[Any] = self._context.Queue()
        self._listening: tuple[Sequence[Any], Tell[Any]] = ((), lambda *_: None)
        self._pump = threading.Thread(target=self._pass_reports_on, daemon=True)

    def __enter__(self) -> Self:
        self._pump.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_workers()
        # A worker killed amid a report keeps the queue's lock: then the last word never arrives, and this
        # process must not wait for it at its exit either.
        self._reports.cancel_join_thread()
        self._reports.put(None)
        self._pump.join(timeout=5)

    def map(self, work: Work[I, R], items: Sequence[I], tell: Tell[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, as they finish."""
        self._listening = (items, tell)
        waiting = list(range(len(items)))
        while waiting:
            suspects: list[int] = []
            yield from self._run(work, items, waiting, self._jobs, suspects)
            for number in suspects:
                start = time.perf_counter()
                dead: list[int] = []
                yield from self._run(work, items, [number], 1, dead)
                if dead:
                    yield Outcome(items[number], None, WORKER_DIED, time.perf_counter() - start)

    def _run(
        self, work: Work[I, R], items: Sequence[I], waiting: list[int], jobs: int, suspects: list[int]
    ) -> Iterator[Outcome[I, R]]:
        """Run what is waiting until nothing is left or a worker dies; then name what was under way."""
        under_way: dict[Future[Outcome[None, R]], int] = {}
        while waiting or under_way:
            # No more than can run at once: an item that only waits is no suspect when a worker dies.
            while waiting and len(under_way) < jobs and not suspects:
                number = waiting.pop(0)
                try:
                    under_way[self._workers().submit(_work_in_worker, work, items[number], number)] = number
                except BrokenProcessPool:
                    suspects.append(number)
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                number = under_way.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    suspects.append(number)
                else:
                    yield Outcome(items[number], outcome.result, outcome.failure, outcome.seconds)
            if suspects:
                suspects.extend(under_way.values())
                self._end_workers()
                return

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._jobs, self._context, initializer=_start_worker, initargs=(self._reports, self._threads)
            )
        return self._pool

    def _end_workers(self) -> None:
        """End the workers at once: on the way out nobody waits for what is still under way."""
        if self._pool is None:
            return
        workers = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(timeout=5)
        self._pool = None

    def _pass_reports_on(self) -> None:
        """Pass the workers' progress and warnings on, until told to stop."""
        while (report := self._reports.get()) is not None:
            if isinstance(report, str):
                logging.getLogger("bench").warning(report)
                continue
            number, what, done, total = report
            items, tell = self._listening
            if number < len(items):  # a late report of the wave before is of no use
                tell(items[number], what, done, total)


WORKER_DIED = Failure(
    type="WorkerDied", message="the worker process died (killed, or out of memory)", traceback=""
)


_reports: "Queue[Any] | None" = None


def _start_worker(reports: "Queue[Any]", threads: int) -> None:
    global _reports  # noqa: PLW0603 - the one thing a worker process inherits
    _reports = reports
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.getLogger("bench").addHandler(_ToParent())
    import torch

    torch.set_num_threads(threads)


class _ToParent(logging.Handler):
    """Sends a worker's warnings to the parent, which shows each once."""

    def emit(self, record: logging.LogRecord) -> None:
        if _reports is not None and record.levelno >= logging.WARNING:
            _reports.put(record.getMessage())


def _die_with_parent() -> None:
    """End this worker when its parent is gone: a killed run must leave no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_in_worker(work: Work[I, R], item: I, number: int) -> Outcome[None, R]:
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if _reports is not None and (done in (0, total) or now - last >= PROGRESS_EVERY_S):
            last = now
            with contextlib.suppress(OSError, ValueError):
                _reports.put((number, what, done, total))

    outcome = _attempt(work, item, report)
    return Outcome(None, outcome.result, outcome.failure, outcome.seconds)
