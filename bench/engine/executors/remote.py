"""What executors on other machines share: the task of a worker, and the loop that submits tasks."""

import math
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench.engine.executors.base import (
    WORKER_DIED,
    I,
    Message,
    NextItem,
    Outcome,
    R,
    ReportProgress,
    SendMessage,
    Work,
    handle_message,
    run_in_worker,
    time_limit_failure,
)
from bench.errors import BenchError

H = TypeVar("H")
"""An executor's handle of a task that it has submitted."""


@dataclass(frozen=True)
class RemoteTask:
    """One item for a worker on another machine.

    Attributes:
        work: what is done.
        item: the item it is done for.
        threads: CPU threads of the worker.
        shared_path: a path in the run's folder, which the worker must see.
    """

    work: Work[Any, Any]
    item: Any
    threads: int
    shared_path: Path

    def run(self, send: SendMessage) -> Outcome[Any, Any]:
        """Do the item's work; its failure is part of the outcome.

        Raises:
            BenchError: when this machine does not see the run's folder.
        """
        if not self.shared_path.exists():
            raise BenchError(
                f"the node {socket.gethostname()} does not see {self.shared_path} in the run's folder; "
                "give --out a folder that all nodes share under the same path"
            )
        import torch

        torch.set_num_threads(self.threads)
        return run_in_worker(self.work, self.item, send)


class WorkerLostError(Exception):
    """A worker is gone, alone or with its node, and its item is not finished."""


@dataclass
class _InFlight:
    """An item that was submitted and is not finished."""

    item: Any
    is_retry: bool
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float = math.inf
    timed_out: bool = False


class RemoteExecutor(ABC, Generic[H]):
    """Workers on other machines.

    An item whose worker is lost is submitted once more, together with others, before it fails. An item that
    takes longer than the time limit fails, and its worker is ended.
    """

    def __init__(self, out: Path, threads: int, limit_s: float | None) -> None:
        """Take the run's folder, the CPU threads of a worker, and the most seconds an item may take."""
        self._out, self._threads, self._limit_s = out, threads, limit_s
        self._shared_path = out
        self._in_flight: dict[H, _InFlight] = {}

    def map(
        self, work: Work[I, R], next_item: NextItem[I], report: ReportProgress[I]
    ) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, as they finish.

        Raises:
            BenchError: when a machine cannot do any item.
        """
        retries = list[I]()
        while True:
            free = self._capacity() - len(self._in_flight) - len(retries)
            self._submit_items(work, retries, is_retry=True)
            new = list[I]()
            while len(new) < free and (item := next_item()) is not None:
                new.append(item)
            self._submit_items(work, new, is_retry=False)
            if not self._in_flight:
                return
            finished = self._wait(self._in_flight)
            self._handle_messages(report)
            self._cancel_timed_out()
            retries = []
            for handle in finished:
                task = self._in_flight.pop(handle)
                try:
                    yield replace(self._fetch_outcome(handle), item=task.item)
                except WorkerLostError:
                    if not (task.is_retry or task.timed_out):
                        retries.append(task.item)
                        continue
                    failure = (
                        time_limit_failure(self._limit_s) if self._limit_s and task.timed_out else WORKER_DIED
                    )
                    yield Outcome(task.item, None, failure, time.monotonic() - task.submitted_at)

    def _submit_items(self, work: Work[I, R], items: list[I], is_retry: bool) -> None:
        tasks = [RemoteTask(work, item, self._threads, self._shared_path) for item in items]
        if tasks:
            in_flight = (_InFlight(item, is_retry) for item in items)
            self._in_flight.update(zip(self._submit(tasks), in_flight, strict=True))

    def _handle_messages(self, report: ReportProgress[Any]) -> None:
        for handle, message in self._receive_messages():
            task = self._in_flight.get(handle)
            if task is None and not isinstance(message, str):
                continue  # its item is finished
            if task is not None and message is None:
                task.started_at = time.monotonic()
            handle_message(message, task and task.item, report)

    def _cancel_timed_out(self) -> None:
        for handle, task in self._in_flight.items():
            if self._limit_s and time.monotonic() > task.started_at + self._limit_s and not task.timed_out:
                task.timed_out = True
                self._cancel(handle)

    @abstractmethod
    def _capacity(self) -> int:
        """Return how many items may be in flight now."""

    @abstractmethod
    def _submit(self, tasks: list[RemoteTask]) -> list[H]:
        """Submit tasks; return their handles."""

    @abstractmethod
    def _wait(self, handles: Collection[H]) -> list[H]:
        """Wait a moment, or until a task is finished; return the finished ones."""

    @abstractmethod
    def _receive_messages(self) -> Iterable[tuple[Any, Message]]:
        """Return the workers' new messages, each with the handle of its task, or with any other value."""

    @abstractmethod
    def _fetch_outcome(self, handle: H) -> Outcome[Any, Any]:
        """Return the outcome of a finished task.

        Raises:
            WorkerLostError: when its worker is gone.
            BenchError: when the worker's machine cannot do any item.
        """

    @abstractmethod
    def _cancel(self, handle: H) -> None:
        """End a task's worker at once."""
