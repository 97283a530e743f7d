"""Do what is to be done in waves, save each thing as it finishes, tell the listeners.

    run
    ├─ surrogates   each distinct one once          → store
    ├─ poisons      each distinct one once          → store
    ├─ purified     each distinct one once          → store
    └─ cells        every cell without a record     → record, at once and atomically

Only this process writes records; workers write the poisons and surrogates they make. Other runs may be at
work in the same folder: each thing is claimed before it is begun, and what another run has is waited for.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from bench.engine.execution.events import (
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
from bench.engine.executors.base import Executor, Outcome
from bench.engine.planning.cell import Cell, Poison, Purified, Surrogate, Wave
from bench.engine.planning.expand import Plan
from bench.engine.planning.remaining_work import RerunPolicy, find_remaining_work
from bench.engine.stages.context import RunContext, describe_environment
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.evaluate import evaluate_cell
from bench.engine.stages.purify import purify_set
from bench.engine.stages.surrogate import train_surrogate
from bench.engine.storage.item_logs import log_item
from bench.engine.storage.store import POISONS, PURIFIED, RECORDS, SURROGATES, Stamp
from bench.errors import BenchError
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

    What other runs make in the folder meanwhile counts as cached, unless it failed.

    Args:
        plan: what to run.
        run_context: where and with what.
        executor: who does it, entered already.
        listeners: told of every event.
        rerun: which cells with a record are run again.
        stopped: asked before anything is begun; once it is true, the run ends with what is under way.

    Raises:
        BenchError: when the output folder cannot be written to.
    """
    store = run_context.store
    store.prepare()
    with ItemLocks(store.locks, store.sweep) as locks:
        return _Run(plan, run_context, executor, listeners, rerun, stopped, locks).run()


WORK: dict[Wave, Callable[..., Any]] = {
    "surrogates": train_surrogate,
    "poisons": craft_poison,
    "purified": purify_set,
    "cells": evaluate_cell,
}
"""What is done for an item of each wave, in order; plans and selections have a field of that name."""

KIND: dict[Wave, str] = {
    "surrogates": SURROGATES,
    "poisons": POISONS,
    "purified": PURIFIED,
    "cells": RECORDS,
}
"""Where the store keeps what each wave makes."""

POLL_S = 0.5
"""How often to look whether other runs have finished what this one waits for."""


class _Run:
    def __init__(
        self,
        plan: Plan,
        run_context: RunContext,
        executor: Executor,
        listeners: Sequence[Listener],
        rerun: RerunPolicy,
        stopped: Callable[[], bool],
        locks: ItemLocks,
    ) -> None:
        self._plan = plan
        self._workshop = run_context
        self._store = run_context.store
        self._executor = executor
        self._listeners = listeners
        self._rerun: RerunPolicy = rerun
        self._stopped = stopped
        self._locks = locks
        self._stamps = self._look()
        self._broken: dict[str, Failure] = {}  # key of a surrogate, poison, ... → why it could not be made
        self._cells: Counter[str] = Counter()  # done, cached, failed

    def run(self) -> RunFinished:
        start = time.perf_counter()
        chosen = find_remaining_work(self._plan, self._store, self._rerun)
        self._cells["cached"] = chosen.cached["cells"]
        with _warnings_as_notices(self._tell):
            # Few suites have sets to purify; of the others' nothing is said.
            waves = [wave for wave in WORK if wave != "purified" or self._plan.purified]
            todo: dict[Wave, Sequence[Any]] = {wave: getattr(chosen, wave) for wave in waves}
            counts = {wave: (len(todo[wave]), chosen.cached[wave]) for wave in waves}
            self._tell(RunStarted(self._plan.suite, str(self._workshop.out), counts))
            for sentence in (*self._plan.left_out, *chosen.notices):
                self._tell(Notice(sentence))
            for wave in waves:
                if not self._stopped():
                    self._wave(wave, todo[wave], chosen.cached[wave])
            finished = RunFinished(
                done=self._cells["done"],
                cached=self._cells["cached"],
                failed=self._cells["failed"],
                seconds=time.perf_counter() - start,
            )
            self._tell(finished)
        return finished

    def _look(self) -> dict[str, Stamp | None]:
        """Return the stamps of all that the plan is about, before anything is selected."""
        return {
            item.key: self._store.stamp(KIND[wave], item.key)
            for wave in WORK
            for item in getattr(self._plan, wave)
        }

    def _tell(self, event: Any) -> None:
        for listener in self._listeners:
            listener(event)

    def _wave(self, wave: Wave, items: Sequence[Any], cached: int) -> None:
        self._tell(WaveStarted(wave, len(items), cached))

        def tell(item: Any, what: str, done: int, total: int) -> None:
            self._tell(ItemProgress(wave, item.key, item.label, what, done, total))

        with_run_context = partial(_work, WORK[wave], self._workshop)
        patient = False
        while items and not self._stopped():
            busy: list[Any] = []
            for outcome in self._executor.map(with_run_context, self._locked_items(wave, items, busy), tell):
                self._keep(wave, outcome)
            if busy:
                if not patient:
                    self._tell(Notice(f"{len(busy)} of the {wave} are being made by another run; waiting"))
                patient = True
                time.sleep(POLL_S)
            items = busy
        self._tell(WaveFinished(wave))

    def _locked_items(self, wave: Wave, items: Sequence[Any], busy: list[Any]) -> Iterator[Any]:
        """Yield each item that is to be made, once it is claimed; collect those another run is at.

        It never waits: what is under way must be saved first, since others may wait for that.
        """
        for item in items:
            if self._stopped():
                return
            if not self._locks.acquire(item.key):
                busy.append(item)
            elif self._made_elsewhere(wave, item):
                self._locks.release(item.key)
            elif (failure := self._cause(item)) is not None:
                self._keep(wave, Outcome(item, None, failure, 0.0))
            else:
                if isinstance(item, Poison) and self._rerun == "all":
                    self._store.checkpoint(item.key).unlink(missing_ok=True)
                yield item

    def _made_elsewhere(self, wave: Wave, item: Any) -> bool:
        """Return whether another run has made an item since this one looked; then tell of its end."""
        if self._store.stamp(KIND[wave], item.key) == self._stamps[item.key]:
            return False
        record = None
        try:
            if isinstance(item, Cell):
                record = self._store.read(item.key)
                found = record is not None
            else:
                found = self._store.verify(KIND[wave], item.key)
        except BenchError:
            return False
        if found:
            failure = record.error if record is not None else None
            self._tell_end(wave, Outcome(item, None, failure, 0.0), record, "cached")
        return found

    def _cause(self, item: Surrogate | Poison | Purified | Cell) -> Failure | None:
        """Return why what the item is made from could not be made, None where nothing is missing."""
        match item:
            case Cell():
                sources = [item.poison.key, *([item.purified.key] if item.purified else [])]
            case Purified():
                sources = [item.poison.key]
            case Poison():
                sources = [item.surrogate.key] if item.attack.part.needs_surrogate else []
            case _:
                sources = []
        return next((self._broken[key] for key in sources if key in self._broken), None)

    def _keep(self, wave: Wave, outcome: Outcome[Any, Any]) -> None:
        """Save a cell's record. The rest was saved where it was made; of it, only a failure is noted."""
        item, failure, record = outcome.item, outcome.failure, None
        if isinstance(item, Cell):
            record = self._failure_record(item, failure) if failure else cast("Record", outcome.result)
            self._store.write(record)
        elif failure is not None:
            self._broken[item.key] = failure
        self._locks.release(item.key)
        self._tell_end(wave, outcome, record, "done")

    def _tell_end(self, wave: Wave, outcome: Outcome[Any, Any], record: Record | None, sound: str) -> None:
        item, failure = outcome.item, outcome.failure
        if isinstance(item, Cell):
            self._cells[sound if failure is None else "failed"] += 1
        error = failure["message"] if failure else None
        self._tell(ItemFinished(wave, item.key, item.label, outcome.seconds, record, error))

    def _failure_record(self, cell: Cell, failure: Failure) -> Record:
        return Record(
            key=cell.key,
            status="failed",
            suite=self._plan.suite,
            cell=cell.labels,
            victim=cell.victim,
            poison=cell.poison.key,
            settings=cell.settings(),
            environment=describe_environment(self._workshop),
            error=failure,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _work(
    work: Callable[[Item, RunContext, Progress], Any], run_context: RunContext, item: Item, progress: Progress
) -> Any:
    with log_item(run_context.out, item.key, item.label, progress) as noted:
        return work(item, run_context, noted)


@contextlib.contextmanager
def _warnings_as_notices(tell: Callable[[Notice], None]) -> Iterator[None]:
    """Turn the package's log warnings into notices, each sentence once."""
    said: set[str] = set()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sentence = record.getMessage()
            if record.levelno >= logging.WARNING and sentence not in said:
                said.add(sentence)
                tell(Notice(sentence))

    logger, handler = logging.getLogger("bench"), Handler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
