"""Keys say when a result can be used again: they may only change on purpose.

After a wanted change, which makes every stored result stale:
``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_keys.py``.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.engine.planning.cell import KEY_LENGTH, Cell
from bench.engine.planning.expand import expand_suite
from bench.engine.planning.suite_file import read_suite
from tests.engine import tiny

GOLDEN = Path(__file__).parent / "keys.json"

ATTACKS = {"matrix": {"attack": ["clean", "random", "em", "tap"]}}


def cells(**tables: Any) -> dict[str, Cell]:
    """Return a plan's cells by their attack."""
    found = {cell.poison.attack.name: cell for cell in tiny.plan(**{**ATTACKS, **tables}).cells}
    assert set(found) >= {"clean", "random", "em", "tap"}
    return found


def test_keys_of_the_smoke_suite() -> None:
    plan = expand_suite(read_suite("smoke"))
    keys = {
        "surrogates": {surrogate.label: surrogate.key for surrogate in plan.surrogates},
        "poisons": {poison.label: poison.key for poison in plan.poisons},
        "cells": {cell.label: [cell.key, cell.victim] for cell in plan.cells},
    }
    if os.environ.get("MTLUE_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(keys, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert keys == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_key_is_another() -> None:
    plan = expand_suite(read_suite("smoke"))
    keys = [
        *(surrogate.key for surrogate in plan.surrogates),
        *(poison.key for poison in plan.poisons),
        *(cell.key for cell in plan.cells),
        *{cell.victim for cell in plan.cells},
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {KEY_LENGTH}


def test_cells_that_differ_in_the_attack_alone_share_their_victim() -> None:
    assert len({cell.victim for cell in cells().values()}) == 1


@pytest.mark.parametrize(
    "tables",
    [
        {"budget": {"epsilon": 4}},
        {"poison_seed": 5},
        {"surrogate": {"backbone": "small(width=4)"}},
    ],
)
def test_what_is_the_attackers_changes_poisons_and_no_victim(tables: dict[str, Any]) -> None:
    before, after = cells(), cells(**tables)
    for attack, cell in before.items():
        assert after[attack].poison.key != cell.poison.key
        assert after[attack].key != cell.key
        assert after[attack].victim == cell.victim


@pytest.mark.parametrize(
    "tables",
    [
        {"recipe": {"epochs": 3}, "surrogate": {"recipe": tiny.document()["recipe"]}},
        {"params": {"backbone": {"small": {"width": 4}}}},
        {"matrix": {**ATTACKS["matrix"], "defense": ["jpeg"]}},
    ],
)
def test_what_is_the_victims_changes_no_poison(tables: dict[str, Any]) -> None:
    before, after = cells(), cells(**tables)
    for attack, cell in before.items():
        assert after[attack].poison.key == cell.poison.key
        assert after[attack].victim != cell.victim
        assert after[attack].key != cell.key


def test_the_surrogates_recipe_matters_to_attacks_that_train_it_alone() -> None:
    before = cells()
    after = cells(surrogate={"recipe": {**tiny.document()["recipe"], "epochs": 7}})
    changed = {attack for attack, cell in before.items() if after[attack].key != cell.key}
    assert changed == {"tap"}
    assert {attack for attack, cell in before.items() if after[attack].poison.key != cell.poison.key} == {
        "tap"
    }
    assert after["tap"].poison.surrogate.key != before["tap"].poison.surrogate.key


def test_a_surrogate_trained_as_the_victims_are_has_the_key_of_one_that_says_so() -> None:
    assert cells()["tap"].key == cells(surrogate={"recipe": tiny.document()["recipe"]})["tap"].key


@pytest.mark.parametrize(
    "tables",
    [
        {"params": {"attack": {"em": {"steps": 2}}}},
        {"matrix": {"attack": ["clean", "random", "em(steps=2)", "tap"]}},
    ],
)
def test_an_attacks_parameter_changes_its_own_cells_alone(tables: dict[str, Any]) -> None:
    def keys(**tables: Any) -> set[str]:
        return {cell.key for cell in tiny.plan(**{**ATTACKS, **tables}).cells}

    assert len(keys() - keys(**tables)) == len(keys(**tables) - keys()) == 1


def test_a_spelt_out_default_changes_nothing() -> None:
    spelled = tiny.plan(matrix={"attack": ["em(steps=1)"], "backbone": ["small(width=2)"]})
    plain = tiny.plan(matrix={"attack": ["em"]})
    assert {cell.key for cell in spelled.cells} == {cell.key for cell in plain.cells}


@pytest.mark.parametrize("of", [lambda c: c.key, lambda c: c.poison.key, lambda c: c.poison.surrogate.key])
@pytest.mark.parametrize(
    "tables", [{"matrix": {"seed": [1]}}, {"params": {"dataset": {"digits": {"train": 65}}}}]
)
def test_seed_and_dataset_change_everything(of: Callable[[Cell], str], tables: dict[str, Any]) -> None:
    merged = {"matrix": {**ATTACKS["matrix"], **tables.get("matrix", {})}}
    before, after = cells(), cells(**{**tables, **merged})
    assert not {of(cell) for cell in before.values()} & {of(cell) for cell in after.values()}


def test_a_parts_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from baselines.em import EM

    before = cells()
    monkeypatch.setattr(EM, "version", EM.version + 1)
    after = cells()
    assert {attack for attack, cell in before.items() if after[attack].key != cell.key} == {"em"}


def test_where_and_for_which_suite_it_is_run_is_no_part_of_the_key() -> None:
    assert {a: c.key for a, c in cells(name="other").items()} == {a: c.key for a, c in cells().items()}
