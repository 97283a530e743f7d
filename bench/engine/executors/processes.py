"""Work in worker processes on this machine."""

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import connection
from typing import Any, Self

from bench.engine.executors.base import (
    WORKER_DIED,
    I,
    NextItem,
    Outcome,
    R,
    ReportProgress,
    Work,
    handle_message,
    run_in_worker,
    time_limit_failure,
)
from bench.errors import BenchError
from bench.record import Failure


def assign_gpus(free: Mapping[str, int], jobs: int) -> list[str]:
    """Return the GPU of each worker, chosen so that each has as much memory as possible.

    Args:
        free: bytes that are free on each GPU, by its name in ``CUDA_VISIBLE_DEVICES``.
        jobs: number of workers.
    """
    workers: Counter[str] = Counter()
    for _ in range(jobs):
        workers[max(free, key=lambda gpu: free[gpu] / (workers[gpu] + 1))] += 1
    return list(workers.elements())


class Processes:
    """Worker processes on this machine, kept until the block ends.

    An item whose worker dies (killed, out of memory) is retried once, with no other item running, before it
    fails. An item that takes longer than the time limit fails at once, and its worker is killed. The other
    workers continue in either case.
    """

    def __init__(
        self, jobs: int, threads: int = 1, limit_s: float | None = None, gpus: Sequence[str] = ()
    ) -> None:
        """Configure the workers; they start when they are needed.

        Args:
            jobs: number of workers.
            threads: CPU threads of each.
            limit_s: most seconds an item may take.
            gpus: the GPU of each worker, by its name in ``CUDA_VISIBLE_DEVICES``; empty: as this process.
        """
        self._jobs = jobs
        self._gpus = Counter(gpus)
        self._threads = threads
        self._limit_s = limit_s
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the workers, without waiting for items in progress."""
        for worker in (*self._busy, *self._idle):
            worker.kill()

    def map(
        self, work: Work[I, R], next_item: NextItem[I], report: ReportProgress[I]
    ) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, as they finish.

        Raises:
            BenchError: when the system does not let a worker start.
        """
        retries: deque[I] = (
            deque()
        )  # their worker died, maybe because all workers together need too much memory
        retrying = False
        while True:
            if retries and not self._busy:
                self._start(work, retries.popleft())
                retrying = True
            while not (retries or retrying) and len(self._busy) < self._jobs:
                if (item := next_item()) is None:
                    break
                self._start(work, item)
            if not self._busy:
                return
            for worker in self._wait_for_workers():
                outcome = worker.receive(report)
                if outcome is None:
                    continue
                self._busy.remove(worker)
                self._idle.append(worker)
                if outcome.failure is WORKER_DIED and not retrying:
                    retries.append(outcome.item)
                    continue
                retrying = False
                yield outcome

    def _start(self, work: Work[I, R], item: I) -> None:
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        worker = self._idle.pop() if self._idle else self._new_worker()
        self._busy.append(worker)
        worker.assign(work, item)

    def _new_worker(self) -> "_Worker":
        free = self._gpus - Counter(worker.gpu for worker in (*self._busy, *self._idle) if worker.gpu)
        try:
            return _Worker(self._threads, self._limit_s, next(iter(free), None))
        except OSError as error:
            raise BenchError(
                f"cannot start a worker: {error.strerror or error}; give a smaller --jobs, or raise the "
                "limit of the shell (ulimit -n for open files, ulimit -u for processes)"
            ) from error

    def _wait_for_workers(self) -> "list[_Worker]":
        """Wait until workers send something, die or run out of time; return those."""
        timeout = min(worker.remaining_s for worker in self._busy)
        ends: list[Any] = [end for worker in self._busy for end in (worker.pipe, worker.process.sentinel)]
        ready = connection.wait(ends, None if timeout == math.inf else timeout)
        return [
            worker
            for worker in self._busy
            if worker.pipe in ready or worker.process.sentinel in ready or not worker.remaining_s
        ]


class _Worker:
    """One worker process and its item.

    Each has its own pipe: if the processes shared one, a worker killed while it sends would block the others.
    The worker sends messages and, at the end, the outcome.
    """

    def __init__(self, threads: int, limit_s: float | None, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, worker_end = context.Pipe()
        self.process = context.Process(target=_worker_main, args=(worker_end, threads, gpu))
        self.gpu = gpu
        self._limit_s = limit_s
        # A terminal sends Ctrl-C to all its processes. The worker ignores it from its first instruction on:
        # the parent decides whether an item is finished.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        worker_end.close()

    def assign(self, work: Work[Any, Any], item: Any) -> None:
        """Send an item to the worker."""
        self._item, self._assigned_at, self._started_at = item, time.monotonic(), math.inf
        with contextlib.suppress(OSError):  # it died while it was idle, which `receive` notices
            self.pipe.send((work, item))

    @property
    def remaining_s(self) -> float:
        """Seconds left for the item, counted from when the worker started it."""
        if self._limit_s is None:
            return math.inf
        return max(0.0, self._started_at + self._limit_s - time.monotonic())

    def receive(self, report: ReportProgress[Any]) -> Outcome[Any, Any] | None:
        """Handle what the worker has sent; return the outcome if its item is finished or has failed."""
        for message in self._messages():
            if isinstance(message, Outcome):
                return replace(message, item=self._item)
            if message is None:
                self._started_at = time.monotonic()
            handle_message(message, self._item, report)
        if self._limit_s is not None and not self.remaining_s:
            return self._fail(time_limit_failure(self._limit_s))
        return None

    def _messages(self) -> Iterator[Any]:
        """Yield what the worker has sent so far and, if it is dead, the failure as the outcome."""
        alive = (
            self.process.is_alive()
        )  # asked first: the last messages of a dead worker are still in the pipe
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            alive = False
        if not alive:
            yield self._fail(WORKER_DIED)

    def _fail(self, failure: Failure) -> Outcome[Any, Any]:
        self.kill()
        return Outcome(self._item, None, failure, time.monotonic() - self._assigned_at)

    def kill(self) -> None:
        """Kill the process, whatever it does."""
        self.process.kill()
        self.process.join(timeout=5)
        self.pipe.close()


def _worker_main(pipe: "connection.Connection[Any, Any]", threads: int, gpu: str | None) -> None:
    """Do the items that come through the pipe, as long as the parent lives."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # must be set before torch first looks for GPUs
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if sys.platform == "linux":  # ends a worker that is stopped, too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = threading.Lock()  # warnings may come from any thread

    def send(message: object) -> None:
        with lock:
            pipe.send(message)

    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            work, item = pipe.recv()
            send(replace(run_in_worker(work, item, send), item=None))


_PR_SET_PDEATHSIG = 1
"""Asks Linux for a signal when the parent ends (``man 2 prctl``)."""


def _exit_with_parent() -> None:
    """End this worker when its parent is gone: a killed run must leave no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
