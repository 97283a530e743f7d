"""Run a plan, save each item as it finishes, and emit events to the listeners.

    run
    ├─ surrogates   each distinct one once          → store
    ├─ poisons      each distinct one once          → store
    ├─ purified     each distinct one once          → store
    └─ cells        every cell without a record     → record, at once and atomically

An item starts when those it is made from are there and a worker is free; `Schedule` says which comes first.
Only this process writes records; workers store the surrogates, poisons and purified sets that they make.
Other runs may use the same folder: each item is locked before it is started, and this run waits for items
that another run is working on.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from bench.engine.execution.events import (
    Event,
    ItemFinished,
    ItemProgress,
    Listener,
    Notice,
    RunFinished,
    RunStarted,
)
from bench.engine.execution.locks import ItemLocks
from bench.engine.execution.schedule import Schedule
from bench.engine.executors.base import Executor, Outcome, Work, describe_failure
from bench.engine.planning.cell import AnyItem, Cell, ItemKind, Poison
from bench.engine.planning.durations import measured_seconds
from bench.engine.planning.expand import Plan
from bench.engine.planning.omissions import summarize_omissions
from bench.engine.planning.present_data import PresentData
from bench.engine.planning.remaining_work import RerunPolicy, find_remaining_work
from bench.engine.stages.context import RunContext, describe_environment
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.evaluate import evaluate_cell
from bench.engine.stages.loaded_data import forget_files
from bench.engine.stages.purify import purify_set
from bench.engine.stages.surrogate import train_surrogate
from bench.engine.storage.item_logs import log_item
from bench.engine.storage.store import POISONS, PURIFIED, RECORDS, SURROGATES, Stamp
from bench.errors import BenchError
from bench.files import FolderInPlaceError
from bench.record import Failure, Record
from bench.values import Progress


def run_plan(
    plan: Plan,
    run_context: RunContext,
    executor: Executor,
    listeners: Sequence[Listener] = (),
    rerun: RerunPolicy = "failed",
    stopped: Callable[[], bool] = lambda: False,
) -> RunFinished:
    """Run a plan and return the counts.

    Items that other runs make in the folder meanwhile count as cached, unless they failed.

    Args:
        plan: what to run.
        run_context: the run's folder, data and device.
        executor: where the work runs; entered already.
        listeners: called with every event.
        rerun: which cells with a record are run again.
        stopped: called before each item; once it returns True, the run ends after the items in progress.

    Raises:
        BenchError: when the output folder cannot be written to.
    """
    forget_files()
    store = run_context.store
    store.prepare()
    with ItemLocks(store.locks, store.remove_leftovers) as locks:
        return _Run(plan, run_context, executor, listeners, rerun, stopped, locks).run()


WORK: dict[ItemKind, Callable[..., Any]] = {
    "surrogates": train_surrogate,
    "poisons": craft_poison,
    "purified": purify_set,
    "cells": evaluate_cell,
}
"""The stage of each kind, in order; `Plan` and `RemainingWork` have a field of the kind's name."""

STORED_AS: dict[ItemKind, str] = {
    "surrogates": SURROGATES,
    "poisons": POISONS,
    "purified": PURIFIED,
    "cells": RECORDS,
}
"""Where the store keeps the items of each kind."""

POLL_S = 0.5
"""How often to check whether other runs have finished the items that this one waits for."""


@dataclass
class _Run:
    plan: Plan
    run_context: RunContext
    executor: Executor
    listeners: Sequence[Listener]
    rerun: RerunPolicy
    stopped: Callable[[], bool]
    locks: ItemLocks

    def __post_init__(self) -> None:
        self._store = self.run_context.store
        self._present = PresentData(self.run_context)
        # Read before anything is selected: a stamp that changes later shows that another run made the item.
        self._stamps: dict[str, Stamp | None] = {
            item.key: self._store.stamp(STORED_AS[kind], item.key)
            for kind in WORK
            for item in getattr(self.plan, kind)
        }
        self._failures: dict[str, Failure] = {}  # by the key of a surrogate, a poison or a purified set
        self._cell_counts: Counter[str] = Counter()  # done, cached, failed
        self._busy: list[AnyItem] = []  # another run is working on them

    def run(self) -> RunFinished:
        start = time.perf_counter()
        early: list[Notice] = []  # emitted when listeners know that the run has started
        with _warnings_as_notices(early.append):
            work = find_remaining_work(self.plan, self._store, self.rerun, self._present)
        noted = [notice.message for notice in early]
        self._cell_counts["cached"] = work.cached["cells"]
        with _warnings_as_notices(self._emit, noted):
            # Only few suites have sets to purify; the others do not show that kind.
            kinds = [kind for kind in WORK if kind != "purified" or self.plan.purified]
            counts = {kind: (len(getattr(work, kind)), work.cached[kind]) for kind in kinds}
            labels = {kind: [item.label for item in getattr(work, kind)] for kind in kinds}
            self._emit(RunStarted(self.plan.suite, str(self.run_context.out), counts, labels))
            for message in (
                *summarize_omissions(self.plan.omissions),
                *self.plan.warnings,
                *work.notices,
                *noted,
            ):
                self._emit(Notice(message))
            self._make([item for kind in kinds for item in getattr(work, kind)])
            finished = RunFinished(
                done=self._cell_counts["done"],
                cached=self._cell_counts["cached"],
                failed=self._cell_counts["failed"],
                seconds=time.perf_counter() - start,
            )
            self._emit(finished)
        return finished

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _make(self, items: Sequence[AnyItem]) -> None:
        self._schedule = Schedule(items, measured_seconds(self.run_context) if items else {})
        work: Work[AnyItem, Any] = partial(_work_with_log, WORK, self.run_context)
        has_waited = False
        while self._schedule and not self.stopped():
            outcomes: Iterator[Outcome[AnyItem, Any]]
            outcomes = self.executor.map(work, self._next_item, self._report)
            for outcome in outcomes:
                self._save_outcome(outcome)
            if self._busy:
                if not has_waited:
                    self._emit(Notice(f"another run is working on {_count_kinds(self._busy)}; waiting"))
                has_waited = True
                time.sleep(POLL_S)

    def _report(self, item: AnyItem, what: str, done: int, total: int) -> None:
        self._emit(ItemProgress(item.kind, item.key, item.label, what, done, total))

    def _next_item(self) -> AnyItem | None:
        """Return the next item that must be made, locked; None if none can start now.

        It never waits: items in progress must be saved first, since another run may be waiting for them.
        """
        for busy in self._busy:
            self._schedule.put_back(busy)
        self._busy.clear()
        while not self.stopped() and (item := self._schedule.take()) is not None:
            if not self.locks.acquire(item.key):
                self._busy.append(item)
            elif self._made_by_another_run(item):
                self.locks.release(item.key)
            elif (failure := self._source_failure(item)) is not None:
                self._save_outcome(Outcome(item, None, failure, 0.0))
            else:
                if isinstance(item, Poison) and self.rerun == "all":
                    with contextlib.suppress(OSError):
                        self._store.checkpoint_path(item.key).unlink()
                return item
        return None

    def _made_by_another_run(self, item: AnyItem) -> bool:
        """Return whether another run has made an item since this run started; if so, emit its end."""
        kind = STORED_AS[item.kind]
        if self._store.stamp(kind, item.key) == self._stamps[item.key]:
            return False
        record = None
        try:
            if isinstance(item, Cell):
                record = self._store.read_record(item.key)
                exists = record is not None and (
                    record.status == "failed" or self._present.owns(item, record.environment)
                )
            else:
                about = self._store.read_about(kind, item.key)
                exists = about is not None and self._present.owns(item, about)
                exists = exists and self._store.verify(kind, item.key)
        except BenchError:
            return False
        if exists:
            failure = record.error if record is not None else None
            self._emit_finished(Outcome(item, None, failure, 0.0), record, "cached")
        return exists

    def _source_failure(self, item: AnyItem) -> Failure | None:
        """Return why an item that this item is made from has failed, None if none has."""
        return next((self._failures[key] for key in item.sources if key in self._failures), None)

    def _save_outcome(self, outcome: Outcome[Any, Any]) -> None:
        """Write a cell's record. Workers store all other items; only their failures are kept here."""
        item, failure, record = outcome.item, outcome.failure, None
        if isinstance(item, Cell):
            record = self._failure_record(item, failure) if failure else cast("Record", outcome.result)
            try:
                self._store.write_record(record)
            except FolderInPlaceError as error:  # this cell alone cannot be saved
                failure = describe_failure(error)
                outcome, record = replace(outcome, failure=failure), self._failure_record(item, failure)
        elif failure is not None:
            self._failures[item.key] = failure
        self.locks.release(item.key)
        self._emit_finished(outcome, record, "done")

    def _emit_finished(self, outcome: Outcome[Any, Any], record: Record | None, count_as: str) -> None:
        item, failure = outcome.item, outcome.failure
        self._schedule.settle(item, 0.0 if failure else outcome.seconds)
        if isinstance(item, Cell):
            self._cell_counts[count_as if failure is None else "failed"] += 1
        error = failure["message"] if failure else None
        self._emit(ItemFinished(item.kind, item.key, item.label, outcome.seconds, record, error))

    def _failure_record(self, cell: Cell, failure: Failure) -> Record:
        return Record(
            key=cell.key,
            status="failed",
            suite=self.plan.suite,
            cell=cell.labels,
            victim=cell.victim,
            poison=cell.poison.key,
            settings=cell.settings(),
            environment=describe_environment(self.run_context),
            error=failure,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _work_with_log(
    work: Mapping[ItemKind, Callable[..., Any]], run_context: RunContext, item: AnyItem, progress: Progress
) -> Any:
    with log_item(run_context.out, item.key, item.label, progress) as logged_progress:
        return work[item.kind](item, run_context, logged_progress)


def _count_kinds(items: Sequence[AnyItem]) -> str:
    """Return the numbers of items of each kind, as text."""
    counts = Counter(item.kind for item in items)
    return " and ".join(f"{counts[kind]} of the {kind}" for kind in WORK if counts[kind])


@contextlib.contextmanager
def _warnings_as_notices(emit: Callable[[Notice], None], known: Collection[str] = ()) -> Iterator[None]:
    """Emit the package's log warnings as notices, each message once and known ones not at all."""
    emitted = set(known)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno >= logging.WARNING and message not in emitted:
                emitted.add(message)
                emit(Notice(message))

    logger, handler = logging.getLogger("bench"), Handler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
