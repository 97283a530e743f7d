"""How long a run will take, judged from what was timed in its folder before."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import TypeVar

from bench.engine.events import Wave
from bench.engine.runner import Selection
from bench.engine.store import Store
from bench.record import Record, read_records

Item = TypeVar("Item")
SHARED_PHASES = ("surrogate", "craft")
"""Phases that a record reports but that were spent once for many cells."""


def forecast(chosen: Selection, store: Store, jobs: int) -> Iterator[tuple[Wave, int, float, int]]:
    """Yield per wave its name, the items to do, the seconds expected with so many jobs, and the unknown.

    A cell is expected to take what cells of the same dataset and backbone took on average, a poison what
    those of the same dataset and attack took. The unknown are the items like which nothing was timed yet; the
    seconds are without them.
    """
    records = [r for r in read_records(store.records) if isinstance(r, Record) and r.status == "done"]
    surrogate = _means(
        ((_at(r, "dataset"),), _phase(r, "surrogate")) for r in records if "surrogate" in r.cost
    )
    craft = _means(((_at(r, "dataset"), _at(r, "attack")), _phase(r, "craft")) for r in records)
    cell = _means(((_at(r, "dataset"), _at(r, "backbone")), _own_seconds(r)) for r in records)
    yield "surrogates", *_expect(chosen.surrogates, lambda s: (s.dataset.label,), surrogate, jobs)
    yield "poisons", *_expect(chosen.poisons, lambda p: (p.dataset.label, p.attack.label), craft, jobs)
    yield (
        "cells",
        *_expect(chosen.cells, lambda c: (c.poison.dataset.label, c.backbone.label), cell, jobs),
    )


def _at(record: Record, axis: str) -> str:
    return str(record.cell[axis])


def _phase(record: Record, phase: str) -> float:
    return record.cost[phase]["seconds"]


def _own_seconds(record: Record) -> float:
    return sum(cost["seconds"] for phase, cost in record.cost.items() if phase not in SHARED_PHASES)


def _means(timed: Iterable[tuple[Hashable, float]]) -> dict[Hashable, float]:
    seconds: defaultdict[Hashable, list[float]] = defaultdict(list)
    for kind, value in timed:
        seconds[kind].append(value)
    return {kind: fmean(values) for kind, values in seconds.items()}


def _expect(
    items: Sequence[Item], kind: Callable[[Item], Hashable], means: dict[Hashable, float], jobs: int
) -> tuple[int, float, int]:
    known = [means[kind(item)] for item in items if kind(item) in means]
    return len(items), sum(known) / jobs, len(items) - len(known)
