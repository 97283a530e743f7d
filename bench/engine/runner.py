"""Select what is to be done, do it in three waves, save each thing as it finishes, tell the listeners.

    run
    ├─ surrogates   each distinct one once          → store
    ├─ poisons      each distinct one once          → store
    └─ cells        every cell without a record     → record, at once and atomically

Only this process writes records; workers write the poisons and surrogates they make.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar

from bench.api import Progress
from bench.engine.cell import Cell, Poison, Surrogate
from bench.engine.events import (
    ItemFinished,
    ItemProgress,
    Listener,
    Notice,
    RunFinished,
    RunStarted,
    Wave,
    WaveFinished,
    WaveStarted,
)
from bench.engine.executors import Executor, Outcome
from bench.engine.pipeline import Workshop, craft_poison, environment, run_cell, train_surrogate
from bench.engine.store import POISONS, SURROGATES, DamagedError, Store
from bench.engine.suite import Plan
from bench.errors import BenchError
from bench.record import Failure, Record

Item = TypeVar("Item", Surrogate, Poison, Cell)


Rerun = Literal["failed", "all", "none"]
"""Which cells that have a record are run again."""


@dataclass(frozen=True)
class Selection:
    """What a run has to do, wave by wave, and what is there already."""

    surrogates: tuple[Surrogate, ...]
    poisons: tuple[Poison, ...]
    cells: tuple[Cell, ...]
    cached: dict[Wave, int]
    notices: tuple[str, ...]


def select(plan: Plan, store: Store, rerun: Rerun) -> Selection:
    """Return what is not there yet, or is damaged; damaged poisons and surrogates are named, not removed."""
    notices: list[str] = []
    cells = [cell for cell in plan.cells if _is_due(cell, store, rerun, notices)]
    again = rerun == "all"
    needed = tuple({cell.poison.key: cell.poison for cell in cells}.values())
    poisons = [p for p in needed if again or not _is_sound(store, POISONS, p.key, notices)]
    surrogates = {p.surrogate.key: p.surrogate for p in poisons if p.attack.part.needs_surrogate}
    untrained = [s for s in surrogates.values() if again or not _is_sound(store, SURROGATES, s.key, notices)]
    cached: dict[Wave, int] = {
        "surrogates": len(plan.surrogates) - len(untrained),
        "poisons": len(plan.poisons) - len(poisons),
        "cells": len(plan.cells) - len(cells),
    }
    return Selection(tuple(untrained), tuple(poisons), tuple(cells), cached, tuple(notices))


def _is_due(cell: Cell, store: Store, rerun: Rerun, notices: list[str]) -> bool:
    try:
        record = store.read(cell.key)
    except BenchError as error:
        notices.append(f"{error}; the cell is run again")
        return True
    if record is None or rerun == "all":
        return True
    return record.status == "failed" and rerun == "failed"


def _is_sound(store: Store, kind: str, key: str, notices: list[str]) -> bool:
    try:
        return store.verify(kind, key)
    except DamagedError as error:
        notices.append(f"{error}; it is made again")
        return False


def run(
    plan: Plan,
    workshop: Workshop,
    executor: Executor,
    listeners: Sequence[Listener] = (),
    rerun: Rerun = "failed",
) -> RunFinished:
    """Run a plan's three waves and return the counts.

    Args:
        plan: what to run.
        workshop: where and with what.
        executor: who does it, entered already.
        listeners: told of every event.
        rerun: which cells with a record are run again.

    Raises:
        BenchError: when the output folder cannot be written to.
    """
    return _Run(plan, workshop, executor, listeners).run(rerun)


class _Run:
    def __init__(
        self, plan: Plan, workshop: Workshop, executor: Executor, listeners: Sequence[Listener]
    ) -> None:
        self._plan = plan
        self._workshop = workshop
        self._store = workshop.store
        self._executor = executor
        self._listeners = listeners
        self._broken: dict[str, Failure] = {}  # key of a surrogate or poison → why it could not be made
        self._failed = 0

    def run(self, rerun: Rerun) -> RunFinished:
        start = time.perf_counter()
        self._store.prepare()
        chosen = select(self._plan, self._store, rerun)
        todo = {"surrogates": chosen.surrogates, "poisons": chosen.poisons, "cells": chosen.cells}
        waves: dict[Wave, tuple[int, int]] = {
            wave: (len(todo[wave]), count) for wave, count in chosen.cached.items()
        }
        with _warnings_as_notices(self._tell):
            self._tell(RunStarted(self._plan.suite, str(self._workshop.out), waves))
            for sentence in (*self._plan.left_out, *chosen.notices):
                self._tell(Notice(sentence))
            self._discard(chosen, again=rerun == "all")
            self._wave("surrogates", chosen, chosen.surrogates, train_surrogate, self._keep_failure)
            self._wave("poisons", chosen, chosen.poisons, craft_poison, self._keep_failure)
            self._wave("cells", chosen, chosen.cells, run_cell, self._keep_record)
            finished = RunFinished(
                done=len(chosen.cells) - self._failed,
                cached=chosen.cached["cells"],
                failed=self._failed,
                seconds=time.perf_counter() - start,
            )
            self._tell(finished)
        return finished

    def _tell(self, event: Any) -> None:
        for listener in self._listeners:
            listener(event)

    def _discard(self, chosen: Selection, again: bool) -> None:
        for surrogate in chosen.surrogates:
            self._store.discard(SURROGATES, surrogate.key)
        for poison in chosen.poisons:
            self._store.discard(POISONS, poison.key)
            if again:
                self._store.bookmark(poison.key).unlink(missing_ok=True)

    def _wave(
        self,
        wave: Wave,
        chosen: Selection,
        items: Sequence[Item],
        work: Callable[[Item, Workshop, Progress], Any],
        keep: Callable[[Wave, Outcome[Item, Any]], None],
    ) -> None:
        self._tell(WaveStarted(wave, len(items), chosen.cached[wave]))

        def tell(item: Item, what: str, done: int, total: int) -> None:
            self._tell(ItemProgress(wave, item.key, item.label, what, done, total))

        whole = []
        for item in items:
            failure = self._cause(item)
            if failure is None:
                whole.append(item)
            else:
                keep(wave, Outcome(item, None, failure, 0.0))
        if whole:
            in_workshop = partial(_work, work, self._workshop)
            for outcome in self._executor.map(in_workshop, whole, tell):
                keep(wave, outcome)
        self._tell(WaveFinished(wave))

    def _keep_failure(self, wave: Wave, outcome: Outcome[Any, Any]) -> None:
        """Surrogates and poisons are saved where they are made; only why one is missing is kept here."""
        if outcome.failure is not None:
            self._broken[outcome.item.key] = outcome.failure
        self._tell_end(wave, outcome, None)

    def _cause(self, item: Surrogate | Poison | Cell) -> Failure | None:
        """Return why what the item is made from could not be made, None where nothing is missing."""
        if isinstance(item, Cell):
            return self._broken.get(item.poison.key)
        if isinstance(item, Poison) and item.attack.part.needs_surrogate:
            return self._broken.get(item.surrogate.key)
        return None

    def _keep_record(self, wave: Wave, outcome: Outcome[Cell, Record]) -> None:
        cell, failure = outcome.item, outcome.failure
        record = outcome.result if failure is None else self._failure_record(cell, failure)
        if record is None:
            raise AssertionError(f"no record and no failure of {cell.label}")
        self._store.write(record)
        self._failed += failure is not None
        self._tell_end(wave, outcome, record)

    def _tell_end(self, wave: Wave, outcome: Outcome[Any, Any], record: Record | None) -> None:
        item, failure = outcome.item, outcome.failure
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
            environment=environment(self._workshop),
            error=failure,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _work(
    work: Callable[[Item, Workshop, Progress], Any], workshop: Workshop, item: Item, progress: Progress
) -> Any:
    return work(item, workshop, progress)


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
