"""Run a plan in waves, save each item as it finishes, and emit events to the listeners.

    run
    ├─ surrogates   each distinct one once          → store
    ├─ poisons      each distinct one once          → store
    ├─ purified     each distinct one once          → store
    └─ cells        every cell without a record     → record, at once and atomically

Only this process writes records; workers store the surrogates, poisons and purified sets that they make.
Other runs may use the same folder: each item is locked before it is started, and this run waits for items
that another run is working on.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from bench.engine.execution.events import (
    Event,
    ItemFinished,
    ItemProgress,
    Listener,
    Notice,
    RunFinished,
    RunStarted,
    WaveFinished,
    WaveStarted,
)
from bench.engine.execution.locks import ItemLocks
from bench.engine.executors.base import Executor, Outcome, describe_failure
from bench.engine.planning.cell import Cell, Poison, Purified, Surrogate, Wave
from bench.engine.planning.expand import Plan
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

Item = TypeVar("Item", Surrogate, Poison, Purified, Cell)


def run_plan(
    plan: Plan,
    run_context: RunContext,
    executor: Executor,
    listeners: Sequence[Listener] = (),
    rerun: RerunPolicy = "failed",
    stopped: Callable[[], bool] = lambda: False,
) -> RunFinished:
    """Run a plan's waves and return the counts.

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


WORK: dict[Wave, Callable[..., Any]] = {
    "surrogates": train_surrogate,
    "poisons": craft_poison,
    "purified": purify_set,
    "cells": evaluate_cell,
}
"""The stage of each wave, in order; `Plan` and `RemainingWork` have a field of the wave's name."""

KIND: dict[Wave, str] = {
    "surrogates": SURROGATES,
    "poisons": POISONS,
    "purified": PURIFIED,
    "cells": RECORDS,
}
"""Under which kind the store keeps the items of each wave."""

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
            item.key: self._store.stamp(KIND[wave], item.key)
            for wave in WORK
            for item in getattr(self.plan, wave)
        }
        self._failures: dict[str, Failure] = {}  # by the key of a surrogate, a poison or a purified set
        self._cell_counts: Counter[str] = Counter()  # done, cached, failed

    def run(self) -> RunFinished:
        start = time.perf_counter()
        early: list[Notice] = []  # emitted when listeners know that the run has started
        with _warnings_as_notices(early.append):
            work = find_remaining_work(self.plan, self._store, self.rerun, self._present)
        noted = [notice.message for notice in early]
        self._cell_counts["cached"] = work.cached["cells"]
        with _warnings_as_notices(self._emit, noted):
            # Only few suites have sets to purify; the others do not show that wave.
            waves = [wave for wave in WORK if wave != "purified" or self.plan.purified]
            items: dict[Wave, Sequence[Any]] = {wave: getattr(work, wave) for wave in waves}
            counts = {wave: (len(items[wave]), work.cached[wave]) for wave in waves}
            self._emit(RunStarted(self.plan.suite, str(self.run_context.out), counts))
            for message in (*self.plan.left_out, *self.plan.warnings, *work.notices, *noted):
                self._emit(Notice(message))
            for wave in waves:
                if not self.stopped():
                    self._run_wave(wave, items[wave], work.cached[wave])
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

    def _run_wave(self, wave: Wave, items: Sequence[Any], cached: int) -> None:
        self._emit(WaveStarted(wave, len(items), cached))

        def report(item: Any, what: str, done: int, total: int) -> None:
            self._emit(ItemProgress(wave, item.key, item.label, what, done, total))

        work = partial(_work_with_log, WORK[wave], self.run_context)
        has_waited = False
        while items and not self.stopped():
            busy: list[Any] = []
            for outcome in self.executor.map(work, self._lock_items(wave, items, busy), report):
                self._save_outcome(wave, outcome)
            if busy:
                if not has_waited:
                    self._emit(Notice(f"another run is working on {len(busy)} of the {wave}; waiting"))
                has_waited = True
                time.sleep(POLL_S)
            items = busy
        self._emit(WaveFinished(wave))

    def _lock_items(self, wave: Wave, items: Sequence[Any], busy: list[Any]) -> Iterator[Any]:
        """Yield each item that must be made, locked; collect those that another run is working on.

        It never waits: items in progress must be saved first, since another run may be waiting for them.
        """
        for item in items:
            if self.stopped():
                return
            if not self.locks.acquire(item.key):
                busy.append(item)
            elif self._made_by_another_run(wave, item):
                self.locks.release(item.key)
            elif (failure := self._source_failure(item)) is not None:
                self._save_outcome(wave, Outcome(item, None, failure, 0.0))
            else:
                if isinstance(item, Poison) and self.rerun == "all":
                    with contextlib.suppress(OSError):
                        self._store.checkpoint_path(item.key).unlink()
                yield item

    def _made_by_another_run(self, wave: Wave, item: Any) -> bool:
        """Return whether another run has made an item since this run started; if so, emit its end."""
        if self._store.stamp(KIND[wave], item.key) == self._stamps[item.key]:
            return False
        record = None
        try:
            if isinstance(item, Cell):
                record = self._store.read_record(item.key)
                exists = record is not None and (
                    record.status == "failed" or self._present.owns(item, record.environment)
                )
            else:
                about = self._store.read_about(KIND[wave], item.key)
                exists = about is not None and self._present.owns(item, about)
                exists = exists and self._store.verify(KIND[wave], item.key)
        except BenchError:
            return False
        if exists:
            failure = record.error if record is not None else None
            self._emit_finished(wave, Outcome(item, None, failure, 0.0), record, "cached")
        return exists

    def _source_failure(self, item: Surrogate | Poison | Purified | Cell) -> Failure | None:
        """Return why an item that this item is made from has failed, None if none has."""
        match item:
            case Cell():
                sources = [item.poison.key, *([item.purified.key] if item.purified else [])]
            case Purified():
                sources = [item.poison.key]
            case Poison():
                sources = [item.surrogate.key] if item.attack.part.needs_surrogate else []
            case _:
                sources = []
        return next((self._failures[key] for key in sources if key in self._failures), None)

    def _save_outcome(self, wave: Wave, outcome: Outcome[Any, Any]) -> None:
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
        self._emit_finished(wave, outcome, record, "done")

    def _emit_finished(
        self, wave: Wave, outcome: Outcome[Any, Any], record: Record | None, count_as: str
    ) -> None:
        item, failure = outcome.item, outcome.failure
        if isinstance(item, Cell):
            self._cell_counts[count_as if failure is None else "failed"] += 1
        error = failure["message"] if failure else None
        self._emit(ItemFinished(wave, item.key, item.label, outcome.seconds, record, error))

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
    work: Callable[[Item, RunContext, Progress], Any], run_context: RunContext, item: Item, progress: Progress
) -> Any:
    with log_item(run_context.out, item.key, item.label, progress) as logged_progress:
        return work(item, run_context, logged_progress)


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
