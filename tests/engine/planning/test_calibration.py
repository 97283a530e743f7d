"""Estimates from short measurements: what is measured, what follows from it, and that it is kept."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.api import MultiTaskData
from bench.catalog.build import build_part
from bench.datasets.digits import Digits
from bench.engine.planning import probes
from bench.engine.planning.calibration import Calibration
from bench.engine.planning.dataset_sample import ROWS, take_sample
from bench.engine.planning.estimate import estimate_kinds
from bench.engine.planning.present_data import PresentData
from bench.engine.planning.probes import CraftingProbe, probe_crafting
from bench.engine.planning.remaining_work import find_remaining_work
from bench.engine.storage.store import Store
from bench.values import Budget
from tests.engine import tiny

CROP = {"train": 1000, "test": 500, "crop": 4.0, "image": 9.0, "shape": [32, 32]}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace all measurements by fixed ones; return the list of what was asked for."""
    asked: list[str] = []

    def measure(self: Calibration, work: object, *names: str) -> Any:
        asked.append(names[0])
        return {
            "dataset": CROP,
            "step": (0.5, 0.001),
            "craft": asdict(CraftingProbe(0.0, 0.011, steps=0.0, rounds=3.0, passes=10.0, round_batches=6.0)),
            "clean": 0.25,
            "plain": 2.0,
            "weighting": 5.0,
            "defense": 3.0,
            "regime": {"factor": 2.5, "pretraining": 0.0, "networks": 4, "tasks": 1},
        }[names[0]]

    monkeypatch.setattr(Calibration, "_measure", measure)
    return asked


def seconds_of(items: Any, tmp_path: Path) -> float:
    found = Calibration(tiny.run_context(tmp_path)).seconds(items[-1])
    assert found is not None
    return found


RECIPE = {"epochs": 7, "batch": 100}
"""A pass over the 1,000 images takes 10 steps of 0.5 s, and 0.001 s × 4 for every image: 9 s."""


def test_a_surrogate_takes_its_passes(tmp_path: Path, measured: list[str]) -> None:
    plan = tiny.plan(
        matrix={"attack": ["tap"]}, recipe=RECIPE, surrogate={"backbone": "small", "recipe": RECIPE}
    )
    assert seconds_of(plan.surrogates, tmp_path) == pytest.approx(7 * 9)


@pytest.mark.parametrize(
    ("axes", "passes"),
    [
        ({}, 7),
        ({"weighting": ["uw"]}, 7 * 5 / 2),
        ({"defense": ["jpeg"]}, 7 * 3 / 2),
        ({"regime": ["stl"]}, 7 * 2.5),
        ({"defense": ["linear-probe(share=0.25)"]}, 7 * (0.25 + 3 / 2 / 3)),
    ],
)
def test_a_cell_takes_the_passes_of_its_parts_and_its_scores(
    tmp_path: Path, measured: list[str], axes: dict[str, list[str]], passes: float
) -> None:
    cells = tiny.plan(matrix={"attack": ["random"], **axes}, recipe=RECIPE).cells
    scores = 7 * 0.5 / 3 * (4 if "regime" in axes else 1)
    assert seconds_of(cells, tmp_path) == pytest.approx(9 * (passes + scores))


def test_a_poison_takes_passes_of_its_surrogate_and_what_is_beside_them(
    tmp_path: Path, measured: list[str]
) -> None:
    plan = tiny.plan(
        matrix={"attack": ["em"]}, params={"attack": {"em": {"batch": 100}}}, surrogate={"backbone": "small"}
    )
    # 3 rounds of 10 steps; 10 passes per image of a step and those of 6 batches per round; the rest is what
    # an image takes beside its passes, which took 0.5 / 16 + 0.001 s each: nothing.
    batches = 30 * 10 + 3 * 6
    assert seconds_of(plan.poisons, tmp_path) == pytest.approx(batches * (0.5 + 100 * 0.004))


def test_a_learned_set_takes_its_pixels(tmp_path: Path, measured: list[str]) -> None:
    plan = tiny.plan(matrix={"defense": ["orthogonal-projection"]})
    assert seconds_of(plan.purified, tmp_path) == pytest.approx(0.25 * 1000 * 9)


def remaining(plan: Any, out: Path) -> Any:
    return find_remaining_work(plan, Store(out), "failed", PresentData(tiny.run_context(out)))


def test_real_measurements_are_kept_and_a_second_call_takes_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, context = tiny.plan(matrix={"attack": ["random"], "weighting": ["uw"]}), tiny.run_context(tmp_path)
    monkeypatch.setattr(probes, "probe_crafting", lambda *_: CraftingProbe(0.1, 0.0))  # it has a test below
    first = Calibration(context)
    kinds = estimate_kinds(remaining(plan, tmp_path), context, 2, first)
    first.keep()
    assert [(kind.calibrated, kind.untimed) for kind in kinds] == [(0, 0), (2, 0), (2, 0)]
    assert kinds[-1].seconds > 0
    (file,) = context.cache.glob("calibration-*.json")
    monkeypatch.setattr(probes, "time_steps", None)
    monkeypatch.setattr(probes, "probe_crafting", None)
    again = Calibration(context, budget_s=0)
    assert estimate_kinds(remaining(plan, tmp_path), context, 2, again) == kinds
    # Another machine measures for itself, and so does this one if the file is damaged.
    assert Calibration(replace(context, threads=2), budget_s=0).seconds(plan.cells[0]) is None
    for text in ("{", "[]", "3", json.dumps({"dataset": None})):
        file.write_text(text)
        assert Calibration(context, budget_s=0).seconds(plan.cells[0]) is None


def test_without_time_nothing_is_measured(tmp_path: Path) -> None:
    plan, context = tiny.plan(), tiny.run_context(tmp_path)
    nothing = Calibration(context, budget_s=0)
    kinds = estimate_kinds(remaining(plan, tmp_path), context, 1, nothing)
    nothing.keep()
    assert [kind.untimed for kind in kinds] == [kind.count for kind in kinds]
    assert not context.cache.exists()


def test_a_part_that_cannot_be_measured_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(probes, "time_steps", broken)
    plan, context = tiny.plan(), tiny.run_context(tmp_path)
    assert Calibration(context).seconds(plan.cells[0]) is None


def data() -> MultiTaskData:
    return take_sample(Digits(train=ROWS, test=8), tiny.run_context(Path())).data


@pytest.mark.parametrize(
    ("attack", "rounds", "steps", "passes", "round_batches"),
    [
        ("tap(steps=12,restarts=1)", 1, 0, 12 * 2 / 3, 0),
        ("em(rounds=5,steps=3,surrogate_steps=2)", 5, 0, 3 * 2 / 3, 2),
    ],
)
def test_the_passes_of_a_crafting_are_counted_from_its_beginning(
    attack: str, rounds: float, steps: float, passes: float, round_batches: float
) -> None:
    found = probe_crafting(build_part("attack", attack), Budget("linf", 8), data(), tiny.run_context(Path()))
    assert (found.rounds, found.steps) == (pytest.approx(rounds), pytest.approx(steps))
    assert found.passes == pytest.approx(passes, rel=0.1)
    assert found.round_batches == pytest.approx(round_batches, abs=0.2)
    assert found.image_s > 0


def test_a_dataset_that_is_not_decoded_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Digits.load

    def slow(self: Digits, root: object, cache: Path, progress: Any = None) -> MultiTaskData:
        if self.train > ROWS:
            progress("decoding", 1, self.train + self.test)
        return load(self, root, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(Digits, "load", slow)
    sample = take_sample(Digits(train=5000, test=900), tiny.run_context(tmp_path))
    assert (sample.train, sample.test) == (5000, 900)
    assert len(sample.data.train) == ROWS
    assert torch.equal(sample.data.train.images, sample.data.test.images)
