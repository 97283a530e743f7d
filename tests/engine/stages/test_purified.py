"""Sets that a defense learns to clean: made once for all victims of a poison, with the same result."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.catalog.build import build_part
from bench.defenses.orthogonal_projection import OrthogonalProjection
from bench.engine.planning.expand import Plan
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.evaluate import evaluate_cell
from bench.engine.stages.purify import purify_set
from bench.engine.storage.store import PURIFIED
from bench.values import Split, ignore_progress
from tests.engine import tiny

LEARNED = "orthogonal-projection(epochs=1)"
MATRIX = {"attack": ["clean", "random"], "defense": ["none", LEARNED], "weighting": ["ew", "uw"]}


@pytest.fixture
def cleanings(monkeypatch: pytest.MonkeyPatch) -> list[Split]:
    """Every released set that was cleaned by learning."""
    seen: list[Split] = []
    purify = OrthogonalProjection.purify

    def counted(self: OrthogonalProjection, released: Split, *rest: Any) -> Tensor:
        seen.append(released)
        return purify(self, released, *rest)

    monkeypatch.setattr(OrthogonalProjection, "purify", counted)
    return seen


def plan() -> Plan:
    return tiny.plan(star=False, matrix=MATRIX)


def test_a_released_set_is_cleaned_once_for_all_victims(cleanings: list[Split], tmp_path: Path) -> None:
    ran = tiny.run(plan(), tmp_path)
    assert ran.counts == (8, 0, 0)
    assert len(cleanings) == len(plan().purified) == 2
    keys = {one.poison.key: one.key for one in plan().purified}
    for record in tiny.records(tmp_path).values():
        shared = record.cell["defense"] == LEARNED
        assert record.environment.get("purified") == (keys[record.poison] if shared else None)
    found = [record for record in tiny.records(tmp_path).values() if record.cell["defense"] == LEARNED]
    assert len(found) == 4
    assert len({(record.poison, record.cost["purify"]["seconds"]) for record in found}) == 2


def test_results_are_those_of_victims_that_clean_for_themselves(
    cleanings: list[Split], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny.run(plan(), tmp_path / "shared")
    monkeypatch.setattr(OrthogonalProjection, "learned", False)
    tiny.run(plan(), tmp_path / "alone")
    assert len(cleanings) == 2 + 4
    assert tiny.results(tmp_path / "shared") == tiny.results(tmp_path / "alone")
    assert not (tmp_path / "alone" / PURIFIED).exists()


def test_a_set_that_was_cleaned_ahead_is_taken_as_it_is(cleanings: list[Split], tmp_path: Path) -> None:
    run_context = tiny.run_context(tmp_path)
    (purified,) = tiny.plan("attack=random", matrix={"defense": [LEARNED]}).purified[1:]
    craft_poison(purified.poison, run_context, ignore_progress)
    cost = purify_set(purified, run_context, ignore_progress)
    assert set(cost) == {"purify"}
    (stored,) = run_context.store.load(PURIFIED, purified.key).values()
    assert (stored.dtype, len(stored)) == (torch.uint8, 64)
    assert not torch.equal(stored, cleanings[0].images)
    cell = next(c for c in tiny.plan(matrix={"defense": [LEARNED]}).cells if c.purified == purified)
    record = evaluate_cell(cell, run_context, ignore_progress)
    assert len(cleanings) == 1
    assert record.cost["purify"] == cost["purify"]


@pytest.mark.parametrize("how", ["of another poison", "damaged", "without a note"])
def test_a_set_that_is_not_what_it_should_be_is_made_again(
    how: str, cleanings: list[Split], tmp_path: Path
) -> None:
    (cell,) = tiny.plan_listed(matrix={"attack": ["clean"], "defense": [LEARNED]}).cells
    purified, run_context = cell.purified, tiny.run_context(tmp_path)
    assert purified is not None
    craft_poison(cell.poison, run_context, ignore_progress)
    before = evaluate_cell(cell, run_context, ignore_progress)
    folder = run_context.store.folder(PURIFIED, purified.key)
    about = run_context.store.read_about(PURIFIED, purified.key)
    assert about is not None
    if how == "damaged":
        (folder / "tensors.safetensors").write_bytes(b"short")
    elif how == "without a note":
        (folder / "about.json").unlink()
    else:  # as if the poison had been made again since, and come out different
        images = torch.zeros_like(cleanings[0].images)
        run_context.store.save(
            PURIFIED, purified.key, {"images": images}, {**about, "of": ["other", "other"]}
        )
    after = evaluate_cell(cell, run_context, ignore_progress)
    assert len(cleanings) == 2
    assert (after.curve, after.scores) == (before.curve, before.scores)
    assert run_context.store.load(PURIFIED, purified.key)["images"].any()


def test_what_a_set_depends_on() -> None:
    def keys(**tables: Any) -> set[str]:
        matrix = {"attack": ["random"], "defense": [LEARNED], **tables.pop("matrix", {})}
        return {one.key for one in tiny.plan(matrix=matrix, **tables).purified}

    before = keys()
    assert len(before) == 2  # that of the attack and that of its clean counterpart
    assert keys(matrix={"backbone": ["small(width=4)"], "weighting": ["uw"], "regime": ["stl"]}) == before
    assert keys(recipe={"epochs": 3}) == before
    for other in (
        {"matrix": {"defense": ["orthogonal-projection(epochs=2)"]}},
        {"matrix": {"seed": [1]}},
        {"matrix": {"attack": ["random(tasks=left)"]}},
        {"budget": {"epsilon": 4}},
    ):
        assert keys(**other) != before
    assert len(keys(matrix={"attack": ["random", "random(rate=0.5)"]}) - before) == 2
    assert not keys(matrix={"defense": ["none", "jpeg", "adversarial"]})


def test_the_victims_seed_matters_where_the_poison_is_the_same() -> None:
    plan = tiny.plan(matrix={"attack": ["random"], "defense": [LEARNED], "seed": [0, 1]}, poison_seed=7)
    assert len(plan.poisons) == 2
    assert len(plan.purified) == 4


def test_a_composition_learns_if_a_part_does() -> None:
    assert build_part("defense", f"{LEARNED}+cutout").learned
    assert not build_part("defense", "jpeg+cutout").learned
    cells = tiny.plan_listed(matrix={"defense": [f"{LEARNED}+cutout"]}).cells
    assert all(cell.purified for cell in cells)
    assert cells[0].purified == replace(cells[0], rate=1.0).purified
