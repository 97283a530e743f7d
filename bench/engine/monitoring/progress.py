"""The course of a run: what its events said so far, and what follows from them: speeds and times left."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import FiniteFloat, NonNegativeInt

from bench.engine.execution.events import (
    Event,
    ItemFinished,
    ItemProgress,
    RunStarted,
    WaveFinished,
    WaveStarted,
)
from bench.record import Record


@dataclass(frozen=True)
class ItemSnapshot:
    """An item under way.

    Attributes:
        label: what it is, for people.
        what: what it does now, such as ``epoch``, at step ``done`` of ``total``.
        done: steps done.
        total: steps in all.
        seconds: since it was first heard of.
        pace_s: seconds a step of this takes; None before the first.
        left_s: seconds until the last step of this; None where the pace is unknown.
    """

    label: str
    what: str
    done: NonNegativeInt
    total: NonNegativeInt
    seconds: FiniteFloat
    pace_s: FiniteFloat | None
    left_s: FiniteFloat | None


@dataclass(frozen=True)
class WaveSnapshot:
    """The wave under way.

    Attributes:
        name: of the wave.
        todo: items that were to be made.
        cached: items that were there before.
        finished: items that ended, well or not.
        failed: those of them that failed.
        seconds: since it began.
        left_s: seconds left; None while no item has shown how long it takes.
        per_minute: items that were made by this run, per minute; None before the first.
        images_per_s: training images that went through the victims of finished cells, per second of the wave,
            all workers together; None where none is known.
        items: what is under way.
    """

    name: str
    todo: NonNegativeInt
    cached: NonNegativeInt
    finished: NonNegativeInt
    failed: NonNegativeInt
    seconds: FiniteFloat
    left_s: FiniteFloat | None
    per_minute: FiniteFloat | None
    images_per_s: FiniteFloat | None
    items: tuple[ItemSnapshot, ...]


@dataclass(frozen=True)
class ProgressSnapshot:
    """A run at one moment.

    Attributes:
        suite: the suite's name.
        seconds: since the run began.
        cells_done: cells that have a finished record, of this run or of earlier ones.
        cells_failed: cells that failed in this run.
        cells: all cells of the plan.
        wave: the wave under way, None between two.
        memory_mib: resident memory of every worker process that the run has started, or of the run's own
            where it has none, as it does the work or a cluster does; empty where it was not measured.
        best: the leading attack, its protection, and the number of cells this is known from.
    """

    suite: str
    seconds: FiniteFloat
    cells_done: NonNegativeInt
    cells_failed: NonNegativeInt
    cells: NonNegativeInt
    wave: WaveSnapshot | None
    memory_mib: tuple[FiniteFloat, ...]
    best: tuple[str, FiniteFloat, int] | None


class Ranking(Protocol):
    """Which attack leads, from one record after the other."""

    def add(self, record: Record) -> None:
        """Take in a record; one that was taken in before changes nothing."""

    def best(self) -> tuple[str, float, int] | None:
        """Return the leading attack, its protection, and from how many cells; None while nothing is known."""


@dataclass
class _ItemProgress:
    """An item in progress; times are the clock's.

    Its time left is that of what it does now, at the pace it has had since that began: an item may first
    train a surrogate and then craft, and the one says nothing of the other's pace.
    """

    label: str
    started: float
    began: float
    first: int
    what: str = ""
    done: int = 0
    total: int = 0
    reached: float = 0.0

    def advance(self, event: ItemProgress, now: float) -> None:
        if event.what != self.what or event.done < self.done:
            self.began, self.first = now, event.done
        self.what, self.done, self.total, self.reached = event.what, event.done, event.total, now

    @property
    def pace(self) -> float | None:
        steps = self.done - self.first
        return (self.reached - self.began) / steps if steps > 0 else None

    def left(self, now: float) -> float | None:
        pace = self.pace
        return None if pace is None else max(0.0, pace * (self.total - self.done) - (now - self.reached))

    def view(self, now: float) -> ItemSnapshot:
        return ItemSnapshot(
            self.label, self.what, self.done, self.total, now - self.started, self.pace, self.left(now)
        )


@dataclass
class _WaveProgress:
    """A wave in progress: what the events said of it so far."""

    name: str
    todo: int
    cached: int
    started: float
    failed: int = 0
    parallel: int = 1
    made: int = 0
    made_s: float = 0.0
    images: float = 0.0
    finished: set[str] = field(default_factory=set)
    running: dict[str, _ItemProgress] = field(default_factory=dict)

    def progress(self, event: ItemProgress, now: float) -> bool:
        """Note an item's step; False where the item is finished and its worker's word came late."""
        if event.key in self.finished:
            return False
        item = self.running.setdefault(event.key, _ItemProgress(event.label, now, now, event.done))
        item.advance(event, now)
        self.parallel = max(self.parallel, len(self.running))
        return True

    def finish(self, event: ItemFinished) -> None:
        self.finished.add(event.key)
        self.running.pop(event.key, None)
        if event.error is not None:
            self.failed += 1
            return
        if not event.seconds:  # made by another run: it says nothing of this one's speed
            return
        self.made += 1
        self.made_s += event.seconds
        if event.record is not None and "train" in event.record.cost:
            train = event.record.cost["train"]
            self.images += train["seconds"] * (train["images_per_s"] or 0.0)

    def left(self, now: float) -> float | None:
        """Return the seconds left, None while no item has shown how long it takes.

        What is left of the items in progress and all of the waiting ones, shared by as many as have run at
        once, but no less than the longest item in progress.
        """
        known = [now - i.started + rest for i in self.running.values() if (rest := i.left(now)) is not None]
        if self.made:
            typical = self.made_s / self.made
        elif known:
            typical = sum(known) / len(known)
        else:
            return None
        rests = [max(i.left(now) or 0.0, typical - (now - i.started)) for i in self.running.values()]
        waiting = max(0, self.todo - len(self.finished) - len(self.running))
        return max([(sum(rests) + waiting * typical) / self.parallel, *rests])

    def view(self, now: float) -> WaveSnapshot:
        seconds = now - self.started
        return WaveSnapshot(
            name=self.name,
            todo=self.todo,
            cached=self.cached,
            finished=len(self.finished),
            failed=self.failed,
            seconds=seconds,
            left_s=self.left(now),
            per_minute=60 * self.made / seconds if self.made and seconds > 0 else None,
            images_per_s=self.images / seconds if self.images and seconds > 0 else None,
            items=tuple(item.view(now) for item in self.running.values()),
        )


class RunProgress:
    """Keeps what the events said; what is kept may be read from any thread.

    Args:
        standings: knows which attack leads.
        clock: the time in seconds, from which speeds and times left are estimated.
    """

    def __init__(self, standings: Ranking | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.changes = 0
        """How often something was taken in."""
        self._standings = standings
        self._lock = threading.Lock()
        self._suite = ""
        self._started = clock()
        self._cells: tuple[int, int] = (0, 0)  # to do, there before
        self._done = 0
        self._failed = 0
        self._wave: _WaveProgress | None = None
        self._memory: tuple[float, ...] = ()

    def take(self, event: Event) -> bool:
        """Take in an event; False for the late word on an item that is finished, or of an ended wave."""
        with self._lock:
            self.changes += 1
            now = self.clock()
            match event:
                case RunStarted():
                    self._suite, self._started = event.suite, now
                    self._cells = event.waves.get("cells", (0, 0))
                case WaveStarted():
                    self._wave = _WaveProgress(event.wave, event.todo, event.cached, now)
                case WaveFinished():
                    self._wave = None
                case ItemProgress():
                    wave = self._wave
                    return wave is not None and wave.name == event.wave and wave.progress(event, now)
                case ItemFinished():
                    return self._finish(event)
            return True

    def learn(self, record: Record) -> None:
        """Take in the record of a cell that an earlier run finished."""
        with self._lock:
            self.changes += 1
            if self._standings is not None:
                self._standings.add(record)

    def measure(self, memory_mib: tuple[float, ...]) -> None:
        """Take in the resident memory of every worker."""
        with self._lock:
            self._memory = memory_mib

    def view(self) -> ProgressSnapshot:
        """Return the run as it is now."""
        with self._lock:
            now = self.clock()
            todo, cached = self._cells
            return ProgressSnapshot(
                suite=self._suite,
                seconds=now - self._started,
                cells_done=cached + self._done,
                cells_failed=self._failed,
                cells=todo + cached,
                wave=self._wave.view(now) if self._wave else None,
                memory_mib=self._memory,
                best=self._standings.best() if self._standings is not None else None,
            )

    def _finish(self, event: ItemFinished) -> bool:
        if event.wave == "cells":
            self._done += event.error is None
            self._failed += event.error is not None
            if event.record is not None and self._standings is not None:
                self._standings.add(event.record)
        if self._wave is None or self._wave.name != event.wave:
            return False
        self._wave.finish(event)
        return True
