"""Executors: generator maps that take work and items and yield results as they finish."""

import contextlib
import logging
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any, Generic, Protocol, TypeVar

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
    """Where work runs."""

    def map(self, work: Work[I, R], items: Sequence[I], tell: Tell[I]) -> Generator[Outcome[I, R], None, None]:
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

    def map(self, work: Work[I, R], items: Sequence[I], tell: Tell[I]) -> Generator[Outcome[I, R], None, None]:
        """Yield an outcome per item, in order."""
        import torch

        torch.set_num_threads(self.threads)
        for item in items:
            yield _attempt(work, item, lambda what, done, total, item=item: tell(item, what, done, total))


@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine.

    A worker that dies (killed, out of memory) breaks its pool; the items that were under way are then tried
    once more, each in a pool of its own, so that only the one that kills its worker fails.

    Attributes:
        jobs: worker processes.
        threads: CPU threads of each.
    """

    jobs: int
    threads: int = 1

    def map(self, work: Work[I, R], items: Sequence[I], tell: Tell[I]) -> Generator[Outcome[I, R], None, None]:
        """Yield an outcome per item, as they finish."""
        context = multiprocessing.get_context("spawn")
        reports: Queue[Any] = context.Queue()
        pump = threading.Thread(target=_pump, args=(reports, items, tell), daemon=True)
        pump.start()
        try:
            suspects: list[int] = []
            waiting = list(range(len(items)))[::-1]
            while waiting:
                yield from self._run_pool(work, items, waiting, suspects, reports, self.jobs)
                for number in suspects:
                    yield from self._run_alone(work, items, number, reports)
                suspects.clear()
        finally:
            reports.put(None)
            pump.join(timeout=5)

    def _run_pool(
        self,
        work: Work[I, R],
        items: Sequence[I],
        waiting: list[int],
        suspects: list[int],
        reports: "Queue[Any]",
        jobs: int,
    ) -> Iterator[Outcome[I, R]]:
        """Run what is waiting until nothing is left or the pool breaks; then name who was under way."""
        pool = ProcessPoolExecutor(
            min(jobs, len(waiting)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(reports, self.threads),
        )
        under_way: dict[Future[Outcome[I, R]], int] = {}
        try:
            while waiting or under_way:
                # No more than can run at once: an item that only waits is no suspect when a worker dies.
                while waiting and len(under_way) < jobs:
                    number = waiting.pop()
                    under_way[pool.submit(_work_in_worker, work, items[number], number)] = number
                finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in finished:
                    number = under_way.pop(future)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        suspects.append(number)
                        continue
                    yield Outcome(items[number], outcome.result, outcome.failure, outcome.seconds)
                if suspects:
                    suspects.extend(under_way.values())
                    return
        except BrokenProcessPool:  # raised by submit
            suspects.extend([number, *under_way.values()])
        finally:
            _stop(pool)

    def _run_alone(
        self, work: Work[I, R], items: Sequence[I], number: int, reports: "Queue[Any]"
    ) -> Iterator[Outcome[I, R]]:
        start = time.perf_counter()
        dead: list[int] = []
        yield from self._run_pool(work, items, [number], dead, reports, 1)
        if dead:
            failure = Failure(
                type="WorkerDied",
                message="the worker process died (killed, or out of memory)",
                traceback="",
            )
            yield Outcome(items[number], None, failure, time.perf_counter() - start)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End a pool at once: on the way out nobody waits for what is still under way."""
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(timeout=5)


def _pump(reports: "Queue[Any]", items: Sequence[I], tell: Tell[I]) -> None:
    """Pass the workers' progress and warnings on, until told to stop."""
    while (report := reports.get()) is not None:
        if isinstance(report, str):
            logging.getLogger("bench").warning(report)
            continue
        number, what, done, total = report
        tell(items[number], what, done, total)


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
