"""Find what a run has to do, and what earlier runs have done."""

from dataclasses import dataclass
from typing import Literal

from bench.engine.planning.cell import Cell, ItemKind, Poison, Purified, Surrogate
from bench.engine.planning.expand import Plan
from bench.engine.planning.present_data import PresentData
from bench.engine.storage.store import POISONS, PURIFIED, SURROGATES, DamagedError, Store
from bench.errors import BenchError

RerunPolicy = Literal["failed", "all", "none"]
"""Which cells that have a record are run again."""


@dataclass(frozen=True)
class RemainingWork:
    """What a run has to do.

    Attributes:
        surrogates, poisons, purified, cells: the items to do.
        cached: kind → number of items that are done already.
        notices: one sentence for each damaged file, and for each dataset with results that belong to other
            data.
    """

    surrogates: tuple[Surrogate, ...]
    poisons: tuple[Poison, ...]
    purified: tuple[Purified, ...]
    cells: tuple[Cell, ...]
    cached: dict[ItemKind, int]
    notices: tuple[str, ...]


def find_remaining_work(plan: Plan, store: Store, rerun: RerunPolicy, present: PresentData) -> RemainingWork:
    """Return what is missing, damaged or of other data; the latter two get notices and are not removed."""
    notices: list[str] = []

    def is_usable(kind: str, item: Surrogate | Poison | Purified) -> bool:
        return rerun != "all" and _is_usable(store, kind, item, present, notices)

    cells = [cell for cell in plan.cells if _needs_run(cell, store, rerun, present, notices)]
    needed = tuple({cell.poison.key: cell.poison for cell in cells}.values())
    poisons = [poison for poison in needed if not is_usable(POISONS, poison)]
    used = {p.surrogate.key: p.surrogate for p in poisons if p.attack.part.needs_surrogate}
    surrogates = [surrogate for surrogate in used.values() if not is_usable(SURROGATES, surrogate)]
    sets = {each.key: each for cell in cells if (each := cell.purified) is not None}
    purified = [each for each in sets.values() if not is_usable(PURIFIED, each)]
    cached: dict[ItemKind, int] = {
        "surrogates": len(plan.surrogates) - len(surrogates),
        "poisons": len(plan.poisons) - len(poisons),
        "purified": len(plan.purified) - len(purified),
        "cells": len(plan.cells) - len(cells),
    }
    return RemainingWork(
        tuple(surrogates),
        tuple(poisons),
        tuple(purified),
        tuple(cells),
        cached,
        (*present.notices(), *notices),
    )


def _needs_run(
    cell: Cell, store: Store, rerun: RerunPolicy, present: PresentData, notices: list[str]
) -> bool:
    try:
        record = store.read_record(cell.key, curve=False)
    except BenchError as error:
        notices.append(f"{error}; the cell is run again")
        return True
    if record is None or rerun == "all":
        return True
    if record.status == "failed":
        return rerun == "failed"
    return not present.owns(cell, record.environment)


def _is_usable(
    store: Store, kind: str, item: Surrogate | Poison | Purified, present: PresentData, notices: list[str]
) -> bool:
    try:
        about = store.read_about(kind, item.key)
        return about is not None and present.owns(item, about) and store.verify(kind, item.key)
    except DamagedError as error:
        notices.append(f"{error}; it is made again")
        return False
