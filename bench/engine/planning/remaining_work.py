"""What a run has to do, and what is there already."""

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
    """What a run has to do, wave by wave, and what is there already."""

    surrogates: tuple[Surrogate, ...]
    poisons: tuple[Poison, ...]
    purified: tuple[Purified, ...]
    cells: tuple[Cell, ...]
    cached: dict[Wave, int]
    notices: tuple[str, ...]


def find_remaining_work(plan: Plan, store: Store, rerun: RerunPolicy) -> RemainingWork:
    """Return what is not there yet, or is damaged; damaged poisons and surrogates are named, not removed."""
    notices: list[str] = []
    cells = [cell for cell in plan.cells if _needs_run(cell, store, rerun, notices)]
    again = rerun == "all"
    needed = tuple({cell.poison.key: cell.poison for cell in cells}.values())
    poisons = [p for p in needed if again or not _is_sound(store, POISONS, p.key, notices)]
    surrogates = {p.surrogate.key: p.surrogate for p in poisons if p.attack.part.needs_surrogate}
    untrained = [s for s in surrogates.values() if again or not _is_sound(store, SURROGATES, s.key, notices)]
    sets = {one.key: one for cell in cells if (one := cell.purified) is not None}
    unclean = [one for one in sets.values() if again or not _is_sound(store, PURIFIED, one.key, notices)]
    cached: dict[Wave, int] = {
        "surrogates": len(plan.surrogates) - len(untrained),
        "poisons": len(plan.poisons) - len(poisons),
        "purified": len(plan.purified) - len(unclean),
        "cells": len(plan.cells) - len(cells),
    }
    return RemainingWork(
        tuple(untrained), tuple(poisons), tuple(unclean), tuple(cells), cached, tuple(notices)
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


def _is_sound(store: Store, kind: str, key: str, notices: list[str]) -> bool:
    try:
        return store.verify(kind, key)
    except DamagedError as error:
        notices.append(f"{error}; it is made again")
        return False
