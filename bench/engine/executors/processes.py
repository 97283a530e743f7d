"""Work in worker processes on this machine."""

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from multiprocessing import connection
from typing import Any, Self

from bench.engine.executors.base import (
    WORKER_DIED,
    I,
    Outcome,
    R,
    ReportProgress,
    WarningForwarder,
    Work,
    attempt_item,
    throttle_progress,
    time_limit_failure,
)
from bench.record import Failure


def assign_gpus(free: Mapping[str, int], jobs: int) -> list[str]:
    """Return which GPU each of so many workers computes on, so that each has as much memory as can be.

    Args:
        free: bytes that are free on each GPU, by its name in ``CUDA_VISIBLE_DEVICES``.
        jobs: number of workers.
    """
    workers: Counter[str] = Counter()
    for _ in range(jobs):
        workers[max(free, key=lambda gpu: free[gpu] / (workers[gpu] + 1))] += 1
    return list(workers.elements())


class Processes:
    """Worker processes on this machine, kept from wave to wave.

    An item whose worker dies (killed, out of memory) is tried once more, with nothing else beside it, before
    it fails. One that takes longer than the time limit fails at once, as its worker is killed. What the other
    workers do goes on in either case.
    """

    def __init__(
        self, jobs: int, threads: int = 1, limit_s: float | None = None, gpus: Sequence[str] = ()
    ) -> None:
        """Take what the workers have.

        Args:
            jobs: number of workers.
            threads: CPU threads of each.
            limit_s: seconds an item may take at most.
            gpus: the GPU of each worker, by its name in ``CUDA_VISIBLE_DEVICES``; none: as this process.
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
        """End the workers at once: on the way out nobody waits for what is still under way."""
        for worker in (*self._busy, *self._idle):
            worker.end()

    def map(self, work: Work[I, R], items: Iterable[I], tell: ReportProgress[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, as they finish."""
        source = iter(items)
        suspects: deque[I] = deque()  # their worker died: perhaps there was no room for them beside others
        alone = False
        while True:
            if suspects and not self._busy:
                self._start(work, suspects.popleft())
                alone = True
            while not (suspects or alone) and len(self._busy) < self._jobs:
                pulled = list(islice(source, 1))
                if not pulled:
                    break
                self._start(work, pulled[0])
            if not self._busy:
                return
            for worker in self._stirring():
                outcome = worker.hear(tell)
                if outcome is None:
                    continue
                self._busy.remove(worker)
                self._idle.append(worker)
                if outcome.failure is WORKER_DIED and not alone:
                    suspects.append(outcome.item)
                    continue
                alone = False
                yield outcome

    def _start(self, work: Work[I, R], item: I) -> None:
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        worker = self._idle.pop() if self._idle else self._new_worker()
        self._busy.append(worker)
        worker.take(work, item)

    def _new_worker(self) -> "_Worker":
        free = self._gpus - Counter(worker.gpu for worker in (*self._busy, *self._idle) if worker.gpu)
        return _Worker(self._threads, self._limit_s, next(iter(free), None))

    def _stirring(self) -> "list[_Worker]":
        """Wait until workers say something, die, or are out of time; return those."""
        patience = min(worker.left_s for worker in self._busy)
        ends: list[Any] = [end for worker in self._busy for end in (worker.pipe, worker.process.sentinel)]
        ready = connection.wait(ends, None if patience == math.inf else patience)
        return [
            worker
            for worker in self._busy
            if worker.pipe in ready or worker.process.sentinel in ready or not worker.left_s
        ]


class _Worker:
    """One worker process and what it is doing.

    The two talk through a pipe of their own, so that a worker killed amid a word holds up nobody else. It
    says None when it begins, a step (what, done, total), a sentence that is a warning, and the outcome.
    """

    def __init__(self, threads: int, limit_s: float | None, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_worker_main, args=(theirs, threads, gpu))
        self.gpu = gpu
        self._limit_s = limit_s
        # A terminal sends Ctrl-C to all its processes. The worker is born deaf to it, from its first
        # instruction on: whether its work is finished is up to the parent.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        theirs.close()

    def take(self, work: Work[Any, Any], item: Any) -> None:
        """Begin with an item."""
        self._item, self._taken, self._begun = item, time.monotonic(), math.inf
        with contextlib.suppress(OSError):  # it died while it was idle, which `hear` finds out
            self.pipe.send((work, item))

    @property
    def left_s(self) -> float:
        """The seconds left for the item, from when the process was ready for it; 0 when they are over."""
        if self._limit_s is None:
            return math.inf
        return max(0.0, self._begun + self._limit_s - time.monotonic())

    def hear(self, tell: ReportProgress[Any]) -> Outcome[Any, Any] | None:
        """Take what the worker has to say; return the outcome where its item is finished, in whatever way."""
        for word in self._words():
            match word:
                case None:
                    self._begun = time.monotonic()
                case str():
                    logging.getLogger("bench").warning(word)
                case (what, done, total):
                    tell(self._item, what, done, total)
                case Outcome():
                    return replace(word, item=self._item)
        if self._limit_s is not None and not self.left_s:
            return self._fail(time_limit_failure(self._limit_s))
        return None

    def _words(self) -> Iterator[Any]:
        """Yield what the worker has said by now, and its end as the outcome if it is dead."""
        alive = self.process.is_alive()  # asked first: its last words may lie in the pipe
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            alive = False
        if not alive:
            yield self._fail(WORKER_DIED)

    def _fail(self, failure: Failure) -> Outcome[Any, Any]:
        self.end()
        return Outcome(self._item, None, failure, time.monotonic() - self._taken)

    def end(self) -> None:
        """End the process at once, whatever it does."""
        self.process.kill()
        self.process.join(timeout=5)
        self.pipe.close()


def _worker_main(pipe: "connection.Connection[Any, Any]", threads: int, gpu: str | None) -> None:
    """Do what comes through the pipe, for as long as there is a parent."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when torch first looks for GPUs, which is below
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    lock = threading.Lock()  # warnings may come from any thread

    def say(word: object) -> None:
        with lock:
            pipe.send(word)

    logging.getLogger("bench").addHandler(WarningForwarder(say))
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, ConnectionError):  # there is no parent any more
        while True:
            work, item = pipe.recv()
            say(None)
            outcome: Outcome[Any, Any] = attempt_item(work, item, throttle_progress(say))
            say(replace(outcome, item=None))


def _exit_with_parent() -> None:
    """End this worker when its parent is gone: a killed run must leave no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
