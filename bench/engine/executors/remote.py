"""What the executors of other machines share: errands, and the loop that sends them out."""

import logging
import math
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

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
from bench.errors import BenchError

H = TypeVar("H")
"""By what an executor knows an errand that it has sent out."""

SendMessage = Callable[[object], None]
"""Where a worker's words go: None as it begins, a step (what, done, total), a sentence that is a warning."""


@dataclass(frozen=True)
class RemoteTask:
    """One item for a worker on another machine.

    Attributes:
        work: what is done.
        item: with what.
        threads: CPU threads of the worker.
        witness: a file in the run's folder.
    """

    work: Work[Any, Any]
    item: Any
    threads: int
    witness: Path

    def run(self, say: SendMessage) -> Outcome[Any, Any]:
        """Do the item; what goes wrong with it is in the outcome.

        Raises:
            BenchError: when this machine does not see the run's folder.
        """
        if not self.witness.exists():
            raise BenchError(
                f"the node {socket.gethostname()} does not see {self.witness}, a part of the run's folder; "
                "give --out a folder that all nodes share under the same path"
            )
        import torch

        torch.set_num_threads(self.threads)
        logger, handler = logging.getLogger("bench"), WarningForwarder(say)
        logger.addHandler(handler)
        try:
            say(None)
            return attempt_item(self.work, self.item, throttle_progress(say))
        finally:
            logger.removeHandler(handler)


class WorkerLostError(Exception):
    """A worker is gone, alone or with its node, and its item is not finished."""


@dataclass
class _InFlight:
    """An item under way: whether it was sent before, when it was sent and begun, whether its time is over."""

    item: Any
    again: bool
    at: float = field(default_factory=time.monotonic)
    begun: float = math.inf
    late: bool = False


class RemoteExecutor(ABC, Generic[H]):
    """Workers on other machines.

    An item whose worker is lost is sent out once more, beside the others, before it fails. One that takes
    longer than the time limit fails, as its worker is ended.
    """

    def __init__(self, out: Path, threads: int, limit_s: float | None) -> None:
        """Take the run's folder, the CPU threads of a worker, and the seconds an item may take at most."""
        self._folder, self._threads, self._limit_s = out, threads, limit_s
        self._witness = out
        self._under_way: dict[H, _InFlight] = {}

    def map(self, work: Work[I, R], items: Iterable[I], tell: ReportProgress[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, as they finish.

        Raises:
            BenchError: when a machine is not fit for any item.
        """
        source, lost = iter(items), list[I]()
        while True:
            room = self._room() - len(self._under_way) - len(lost)
            self._send_out(work, lost, again=True)
            self._send_out(work, list(islice(source, max(0, room))), again=False)
            if not self._under_way:
                return
            finished = self._wait(self._under_way)
            self._listen(tell)
            self._end_late()
            lost = []
            for handle in finished:
                sent = self._under_way.pop(handle)
                try:
                    yield replace(self._fetch(handle), item=sent.item)
                except WorkerLostError:
                    if not (sent.again or sent.late):
                        lost.append(sent.item)
                        continue
                    failure = (
                        time_limit_failure(self._limit_s) if self._limit_s and sent.late else WORKER_DIED
                    )
                    yield Outcome(sent.item, None, failure, time.monotonic() - sent.at)

    def _send_out(self, work: Work[I, R], items: list[I], again: bool) -> None:
        errands = [RemoteTask(work, item, self._threads, self._witness) for item in items]
        if errands:
            self._under_way.update(
                zip(self._send(errands), (_InFlight(item, again) for item in items), strict=True)
            )

    def _listen(self, tell: ReportProgress[Any]) -> None:
        for handle, word in self._hear():
            sent = self._under_way.get(handle)
            match word:
                case str(sentence):
                    logging.getLogger("bench").warning(sentence)
                case None if sent:
                    sent.begun = time.monotonic()
                case (what, done, total) if sent:
                    tell(sent.item, what, done, total)

    def _end_late(self) -> None:
        for handle, sent in self._under_way.items():
            if self._limit_s and time.monotonic() > sent.begun + self._limit_s and not sent.late:
                sent.late = True
                self._end(handle)

    @abstractmethod
    def _room(self) -> int:
        """Return how many items may be under way now."""

    @abstractmethod
    def _send(self, errands: list[RemoteTask]) -> list[H]:
        """Send errands out."""

    @abstractmethod
    def _wait(self, handles: Collection[H]) -> list[H]:
        """Wait a moment, less where something is finished; return what is."""

    @abstractmethod
    def _hear(self) -> Iterable[tuple[Any, Any]]:
        """Return what workers have said since, with the handle of each, or another where that is over."""

    @abstractmethod
    def _fetch(self, handle: H) -> Outcome[Any, Any]:
        """Return how something finished has ended.

        Raises:
            LostError: when its worker is gone.
            BenchError: when the worker's machine is not fit for any item.
        """

    @abstractmethod
    def _end(self, handle: H) -> None:
        """End a worker at once."""
