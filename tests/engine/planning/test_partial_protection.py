"""Partial protection: some of the images, some of the tasks."""

from pathlib import Path

import pytest
import torch

from bench.engine.planning.partial_protection import (
    PartialProtection,
    draw_perturbed_rows,
    hide_unprotected,
    read_partial_protection,
)
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.loaded_data import load_dataset
from bench.engine.stages.released_set import build_released_set
from bench.engine.storage.store import POISONS
from bench.errors import BenchError
from bench.values import MISSING
from tests.engine.tiny import plan, records, run, run_context


def test_the_rate_is_exact_seeded_and_grows_from_the_inside() -> None:
    for rate, count in ((0.5, 50), (0.333, 33), (1.0, 100), (0.004, 0)):
        assert int(draw_perturbed_rows(100, rate, 0).sum()) == count
    assert torch.equal(draw_perturbed_rows(100, 0.5, 0), draw_perturbed_rows(100, 0.5, 0))
    assert not torch.equal(draw_perturbed_rows(100, 0.5, 0), draw_perturbed_rows(100, 0.5, 1))
    assert (draw_perturbed_rows(100, 0.5, 0) <= draw_perturbed_rows(100, 0.8, 0)).all()


@pytest.mark.parametrize(
    ("params", "scope"),
    [
        ({}, PartialProtection()),
        ({"rate": 0.5, "steps": 3}, PartialProtection(0.5)),
        ({"tasks": ["left"]}, PartialProtection(1.0, ("left",))),
        ({"tasks": "left"}, PartialProtection(1.0, ("left",))),
    ],
)
def test_a_scope_is_read_from_an_attacks_parameters(
    params: dict[str, object], scope: PartialProtection
) -> None:
    assert read_partial_protection("em", params) == scope


@pytest.mark.parametrize("params", [{"rate": 0}, {"rate": 1.5}, {"rate": "half"}, {"tasks": [3]}])
def test_a_scope_that_makes_no_sense_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(BenchError, match=r"attack 'em': .* is refused"):
        read_partial_protection("em", params)


def test_an_unprotected_tasks_labels_are_not_seen(tmp_path: Path) -> None:
    (cell, *_) = plan().cells
    data = load_dataset(cell.poison.dataset.part, run_context(tmp_path))
    seen = hide_unprotected(data, ("left", "larger"))
    assert (seen.targets["right"] == MISSING).all()
    assert torch.equal(seen.targets["left"], data.train.targets["left"])
    assert not (data.train.targets["right"] == MISSING).any()
    with pytest.raises(BenchError, match="did you mean 'left'"):
        hide_unprotected(data, ("lift",))


def test_a_part_of_the_images_is_perturbed_and_the_rest_is_trained_on_alone_for_comparison(
    tmp_path: Path,
) -> None:
    chosen = plan(matrix={"attack": ["random", "random(rate=0.25)"]})
    by_label = {cell.poison.attack.label: cell for cell in chosen.cells}
    assert set(by_label) == {"clean", "clean(rate=0.25)", "random", "random(rate=0.25)"}
    part, all_, rest = (by_label[label] for label in ("random(rate=0.25)", "random", "clean(rate=0.25)"))
    assert part.poison.key == all_.poison.key  # crafted once
    assert part.key != all_.key
    assert rest.poison.key == by_label["clean"].poison.key
    context = run_context(tmp_path)
    context.store.prepare()
    craft_poison(part.poison, context, lambda *_: None)
    change = context.store.load(POISONS, part.poison.key)["change"]
    train = load_dataset(part.poison.dataset.part, context).train
    changed = (build_released_set(part, train, change).images != train.images).flatten(1).any(1)
    assert int(changed.sum()) == len(train) // 4
    alone = build_released_set(rest, train, None)
    assert torch.equal(alone.images, train.images[~changed])
    assert torch.equal(alone.targets["left"], train.targets["left"][~changed])
    assert (build_released_set(all_, train, change).images != train.images).flatten(1).any(1).all()


def test_partial_protection_is_in_the_records_and_on_the_board(tmp_path: Path) -> None:
    from leaderboard.board import render_board

    chosen = plan(
        matrix={"attack": ["random(rate=0.5)", 'random(tasks=["left"])']},
        params={"attack": {"random": {"lift": "patch"}}},
    )
    ran = run(chosen, tmp_path)
    assert ran.counts == (4, 0, 0)
    found = {record.cell["attack"]: record for record in records(tmp_path).values()}
    assert found["random(rate=0.5)"].settings["rate"] == 0.5
    assert found["clean(rate=0.5)"].settings["rate"] == 0.5
    assert found['random(tasks=["left"])'].settings["protected"] == ["left"]
    assert found["clean"].settings["rate"] == 1.0
    assert "## Partial protection" in render_board(found.values())


def test_rates_can_be_set_for_an_attack_in_the_suites_parameters() -> None:
    labels = {
        (cell.poison.attack.label, cell.rate)
        for cell in plan(params={"attack": {"random": {"rate": 0.5}}}).cells
    }
    assert labels == {("clean", 1.0), ("clean(rate=0.5)", 0.5), ("random", 0.5)}


def test_clean_protects_no_task() -> None:
    with pytest.raises(BenchError, match="'clean' protects no task"):
        plan(matrix={"attack": ['clean(tasks=["left"])']})


def test_an_unknown_task_fails_the_cell_by_name(tmp_path: Path) -> None:
    ran = run(plan(matrix={"attack": ['random(tasks=["lift"])']}), tmp_path)
    assert ran.counts == (1, 0, 1)
    (failed,) = [record for record in records(tmp_path).values() if record.status == "failed"]
    assert failed.error is not None
    assert "did you mean 'left'" in failed.error["message"]
