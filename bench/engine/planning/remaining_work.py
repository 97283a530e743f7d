"""Find what a run has to do, and what earlier runs have done."""

from dataclasses import dataclass
from typing import Literal

from bench.engine.planning.cell import Cell, Poison, Purified, Surrogate, Wave
from bench.engine.planning.expand import Plan
from bench.engine.storage.store import POISONS, PURIFIED, SURROGATES, DamagedError, Store
from bench.errors import BenchError

RerunPolicy = Literal["failed", "all", "none"]
"""Which cells that have a record are run again."""


@dataclass(frozen=True)
class RemainingWork:
    """What a run has to do, wave by wave.

    Attributes:
        surrogates, poisons, purified, cells: the items to do.
        cached: wave → number of items that are done already.
        notices: one sentence for each damaged file.
    """

    surrogates: tuple[Surrogate, ...]
    poisons: tuple[Poison, ...]
    purified: tuple[Purified, ...]
    cells: tuple[Cell, ...]
    cached: dict[Wave, int]
    notices: tuple[str, ...]


def find_remaining_work(plan: Plan, store: Store, rerun: RerunPolicy) -> RemainingWork:
    """Return what is missing or damaged; damaged files get a notice and are not removed."""
    notices: list[str] = []
    cells = [cell for cell in plan.cells if _needs_run(cell, store, rerun, notices)]
    rerun_all = rerun == "all"
    needed = tuple({cell.poison.key: cell.poison for cell in cells}.values())
    poisons = [p for p in needed if rerun_all or not _is_intact(store, POISONS, p.key, notices)]
    used = {p.surrogate.key: p.surrogate for p in poisons if p.attack.part.needs_surrogate}
    surrogates = [s for s in used.values() if rerun_all or not _is_intact(store, SURROGATES, s.key, notices)]
    sets = {each.key: each for cell in cells if (each := cell.purified) is not None}
    purified = [p for p in sets.values() if rerun_all or not _is_intact(store, PURIFIED, p.key, notices)]
    cached: dict[Wave, int] = {
        "surrogates": len(plan.surrogates) - len(surrogates),
        "poisons": len(plan.poisons) - len(poisons),
        "purified": len(plan.purified) - len(purified),
        "cells": len(plan.cells) - len(cells),
    }
    return RemainingWork(
        tuple(surrogates), tuple(poisons), tuple(purified), tuple(cells), cached, tuple(notices)
    )


def _needs_run(cell: Cell, store: Store, rerun: RerunPolicy, notices: list[str]) -> bool:
    try:
        record = store.read_record(cell.key, curve=False)
    except BenchError as error:
        notices.append(f"{error}; the cell is run again")
        return True
    if record is None or rerun == "all":
        return True
    return record.status == "failed" and rerun == "failed"


def _is_intact(store: Store, kind: str, key: str, notices: list[str]) -> bool:
    try:
        return store.verify(kind, key)
    except DamagedError as error:
        notices.append(f"{error}; it is made again")
        return False
