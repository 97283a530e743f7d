"""Progress of a run: what its events have said so far, and the speeds and times left that follow."""

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
)
from bench.engine.monitoring.short_labels import ShortLabels
from bench.record import Record

KNOWN_ITEMS, KNOWN_S = 3, 30.0
"""Items that are made, and seconds that have passed, before the speed of unfinished work is known."""


@dataclass(frozen=True)
class ItemSnapshot:
    """An item in progress.

    Attributes:
        key: its key.
        label: what it is, for people, without what all items of its kind have in common.
        what: what it does now, such as ``epoch``, at step ``done`` of ``total``.
        done: steps done.
        total: steps in all.
        pace_s: seconds per step; None before the first step.
        left_s: seconds until the last step; None if the pace is unknown.
    """

    key: str
    label: str
    what: str
    done: NonNegativeInt
    total: NonNegativeInt
    pace_s: FiniteFloat | None
    left_s: FiniteFloat | None


@dataclass(frozen=True)
class KindSnapshot:
    """The items of one kind.

    Attributes:
        name: of the kind.
        todo: items to make.
        cached: items that existed before.
        finished: items that ended, failed ones too.
        failed: items that failed.
        seconds: from the start of the first item until now, or until the end of the last one.
        left_s: seconds until the last one ends if all workers make only these; None until some item has shown
            how long it takes.
        per_minute: items made by this run, per minute; None until it is known, see `KNOWN_ITEMS`.
        images_per_s: training images per second of all workers together, from the cells that are finished;
            None if unknown.
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

    @property
    def ended(self) -> bool:
        """Whether all items have ended."""
        return self.finished >= self.todo


@dataclass(frozen=True)
class ProgressSnapshot:
    """A run at one moment.

    Attributes:
        suite: the suite's name.
        seconds: since the run began.
        cells_done: cells that are done, in this run or before.
        cells_failed: cells that failed in this run.
        cells: all cells of the plan.
        kinds: the items of each kind; empty before the run begins.
        items: the items in progress.
        memory_mib: resident memory of every worker process on this machine, or of the run's own process if it
            has no workers; empty if not measured.
        best: the leading attack, its protection, and the number of cells this is computed from.
    """

    suite: str
    seconds: FiniteFloat
    cells_done: NonNegativeInt
    cells_failed: NonNegativeInt
    cells: NonNegativeInt
    kinds: tuple[KindSnapshot, ...]
    items: tuple[ItemSnapshot, ...]
    memory_mib: tuple[FiniteFloat, ...]
    best: tuple[str, FiniteFloat, int] | None

    def of(self, kind: str) -> KindSnapshot | None:
        """Return the items of a kind; None if the run has none."""
        return next((each for each in self.kinds if each.name == kind), None)


class Ranking(Protocol):
    """Finds the leading attack from one record after the other."""

    def add(self, record: Record) -> None:
        """Add a record; adding it again changes nothing."""

    def best(self) -> tuple[str, float, int] | None:
        """Return the leading attack, its protection, and the number of cells; None if nothing is known."""


class RunProgress:
    """A listener that keeps what the events say; a snapshot can be taken from any thread.

    Args:
        ranking: gets the records, and says which attack leads.
        clock: the time in seconds, from which speeds and times left are computed.

    Attributes:
        changes: how often an event or an earlier record came.
        memory_mib: as in `ProgressSnapshot`; no event tells it.
    """

    def __init__(self, ranking: Ranking | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.changes = 0
        self.memory_mib: tuple[float, ...] = ()
        self._ranking = ranking
        self._clock = clock
        self._lock = threading.Lock()
        self._suite = ""
        self._started = clock()
        self._cells_todo, self._cells_cached, self._cells_done, self._cells_failed = 0, 0, 0, 0
        self._kinds: dict[str, _KindProgress] = {}
        self._labels: dict[str, ShortLabels] = {}
        self._parallel = 1  # most items that have run at once

    def __call__(self, event: Event) -> None:
        """Update the progress; late events of a finished item are ignored."""
        with self._lock:
            self.changes += 1
            now = self._clock()
            match event:
                case RunStarted():
                    self._suite, self._started = event.suite, now
                    self._cells_todo, self._cells_cached = event.counts.get("cells", (0, 0))
                    self._kinds = {name: _KindProgress(name, *count) for name, count in event.counts.items()}
                    self._labels = {kind: ShortLabels.of(labels) for kind, labels in event.labels.items()}
                case ItemProgress() if self._expects(event):
                    self._kinds[event.kind].update_item(event, now)
                    running = sum(len(kind.running) for kind in self._kinds.values())
                    self._parallel = max(self._parallel, running)
                case ItemFinished() if self._expects(event):
                    self._kinds[event.kind].finish_item(event, now)
                    if event.kind == "cells":
                        self._count_cell(event)

    def short_labels(self, kind: str) -> ShortLabels:
        """Return how the labels of a kind are shortened."""
        return self._labels.get(kind, ShortLabels())

    def add_earlier_record(self, record: Record) -> None:
        """Add the record of a cell that an earlier run finished."""
        with self._lock:
            self.changes += 1
            if self._ranking is not None:
                self._ranking.add(record)

    def snapshot(self) -> ProgressSnapshot:
        """Return the state of the run at this moment."""
        with self._lock:
            now = self._clock()
            return ProgressSnapshot(
                suite=self._suite,
                seconds=now - self._started,
                cells_done=self._cells_cached + self._cells_done,
                cells_failed=self._cells_failed,
                cells=self._cells_todo + self._cells_cached,
                kinds=tuple(kind.snapshot(now, self._parallel) for kind in self._kinds.values()),
                items=tuple(
                    item.snapshot(now, self.short_labels(kind.name).shorten(item.label))
                    for kind in self._kinds.values()
                    for item in kind.running.values()
                ),
                memory_mib=self.memory_mib,
                best=self._ranking.best() if self._ranking is not None else None,
            )

    def _expects(self, event: ItemProgress | ItemFinished) -> bool:
        return event.kind in self._kinds and event.key not in self._kinds[event.kind].finished

    def _count_cell(self, event: ItemFinished) -> None:
        self._cells_done += event.error is None
        self._cells_failed += event.error is not None
        if event.record is not None and self._ranking is not None:
            self._ranking.add(event.record)


@dataclass
class _ItemProgress:
    """An item in progress; times are the clock's.

    Its time left is that of what it does now, at the pace since that began: an item may first train a
    surrogate and then craft, and the pace of the one says nothing about the other.
    """

    key: str
    label: str
    started: float
    what_started: float
    first: int
    what: str = ""
    done: int = 0
    total: int = 0
    updated: float = 0.0

    def update(self, event: ItemProgress, now: float) -> None:
        if event.what != self.what or event.done < self.done:
            self.what_started, self.first = now, event.done
        self.what, self.done, self.total, self.updated = event.what, event.done, event.total, now

    def pace(self) -> float | None:
        steps = self.done - self.first
        return (self.updated - self.what_started) / steps if steps > 0 else None

    def seconds_left(self, now: float) -> float | None:
        pace = self.pace()
        return None if pace is None else max(0.0, pace * (self.total - self.done) - (now - self.updated))

    def snapshot(self, now: float, label: str) -> ItemSnapshot:
        return ItemSnapshot(
            self.key, label, self.what, self.done, self.total, self.pace(), self.seconds_left(now)
        )


@dataclass
class _KindProgress:
    """The items of one kind; times are the clock's."""

    name: str
    todo: int
    cached: int
    started: float | None = None
    ended: float | None = None
    failed: int = 0
    made: int = 0
    made_s: float = 0.0
    images: float = 0.0
    finished: set[str] = field(default_factory=set)
    running: dict[str, _ItemProgress] = field(default_factory=dict)

    def update_item(self, event: ItemProgress, now: float) -> None:
        if self.started is None:
            self.started = now
        new = _ItemProgress(event.key, event.label, now, now, event.done)
        self.running.setdefault(event.key, new).update(event, now)

    def finish_item(self, event: ItemFinished, now: float) -> None:
        self.finished.add(event.key)
        self.running.pop(event.key, None)
        started = now - event.seconds
        self.started = started if self.started is None else min(self.started, started)
        if len(self.finished) >= self.todo:
            self.ended = now
        if event.error is not None:
            self.failed += 1
        elif event.seconds:  # otherwise another run made it, and it says nothing about this one's speed
            self.made += 1
            self.made_s += event.seconds
            if event.record is not None and "train" in event.record.cost:
                train = event.record.cost["train"]
                self.images += train["seconds"] * (train["images_per_s"] or 0.0)

    def seconds_left(self, now: float, parallel: int) -> float | None:
        """Return the seconds left, None until some item has shown how long it takes.

        The rest of the items in progress and all of the waiting ones, shared by as many as have run at once,
        but no less than the longest item in progress.
        """
        items = self.running.values()
        known = [now - item.started + left for item in items if (left := item.seconds_left(now)) is not None]
        if self.made:
            typical = self.made_s / self.made
        elif known:
            typical = sum(known) / len(known)
        else:
            return None
        rests = [max(item.seconds_left(now) or 0.0, typical - (now - item.started)) for item in items]
        waiting = max(0, self.todo - len(self.finished) - len(items))
        return max([(sum(rests) + waiting * typical) / parallel, *rests])

    def snapshot(self, now: float, parallel: int) -> KindSnapshot:
        now = now if self.ended is None else self.ended
        seconds = 0.0 if self.started is None else now - self.started
        is_known = self.ended is not None or (self.made >= KNOWN_ITEMS and seconds >= KNOWN_S)
        return KindSnapshot(
            name=self.name,
            todo=self.todo,
            cached=self.cached,
            finished=len(self.finished),
            failed=self.failed,
            seconds=seconds,
            left_s=self.seconds_left(now, parallel),
            per_minute=60 * self.made / seconds if is_known and self.made and seconds > 0 else None,
            images_per_s=self.images / seconds if self.images and seconds > 0 else None,
        )
