"""The forecast: what was timed in the folder, shared by the workers, and what will be stored."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.datasets.digits import Digits
from bench.engine.cell import Cell
from bench.engine.forecast import MACHINE, Expected, forecast, spell_bytes, warn_of_space
from bench.engine.pipeline import environment
from bench.engine.runner import select
from bench.engine.store import Store
from bench.engine.suite import Plan
from bench.record import Cost, Record
from tests.engine import tiny

MATRIX = {"attack": ["clean", "random", "tap"], "defense": ["none", "grayscale"]}


def timed(seconds: float) -> Cost:
    return Cost(seconds=seconds, images_per_s=None, peak_host_mb=None, peak_device_mb=None)


def record(cell: Cell, **seconds: float) -> Record:
    return Record(
        key=cell.key,
        status="done",
        suite="tiny",
        cell=cell.labels,
        victim=cell.victim,
        poison=cell.poison.key,
        settings={},
        cost={phase: timed(value) for phase, value in seconds.items()},
        environment={fact: environment(tiny.workshop(Path()))[fact] for fact in MACHINE},
    )


def full(plan: Plan, out: Path, jobs: int = 1) -> dict[str, Expected]:
    found = forecast(select(plan, Store(out), "failed"), tiny.workshop(out), jobs)
    return {each.wave: each for each in found}


def expected(plan: Plan, out: Path, jobs: int = 1) -> dict[str, tuple[int, float, int]]:
    return {wave: (each.count, each.seconds, each.untimed) for wave, each in full(plan, out, jobs).items()}


def cell(plan: Plan, attack: str, defense: str = "none") -> Cell:
    labels = {"attack": attack, "defense": defense}
    return next(cell for cell in plan.cells if labels.items() <= cell.labels.items())


def test_nothing_is_known_of_an_empty_folder(tmp_path: Path) -> None:
    plan = tiny.plan(matrix=MATRIX)
    assert expected(plan, tmp_path) == {"surrogates": (1, 0, 1), "poisons": (3, 0, 3), "cells": (6, 0, 6)}
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_cells_take_what_their_like_took(tmp_path: Path) -> None:
    plan, store = tiny.plan(matrix=MATRIX), Store(tmp_path)
    store.write(record(cell(plan, "clean"), craft=100, load=1, train=2, score=3))
    store.write(record(cell(plan, "random"), craft=7, load=1, train=6, score=3))
    # Four cells are left, at the mean of 6 and 10 s without the crafting; nothing was timed of tap.
    assert expected(plan, tmp_path)["cells"] == (4, 4 * 8, 0)
    assert expected(plan, tmp_path, jobs=4)["cells"] == (4, 8, 0)
    assert expected(plan, tmp_path)["poisons"] == (3, 107, 1)
    assert expected(plan, tmp_path)["surrogates"] == (1, 0, 1)


def test_poisons_and_surrogates_take_what_theirs_took(tmp_path: Path) -> None:
    plan, store = tiny.plan(matrix=MATRIX), Store(tmp_path)
    for attack, craft in (("clean", 1), ("random", 2), ("tap", 30)):
        for defense in MATRIX["defense"]:
            surrogate = {"surrogate": 50.0} if attack == "tap" else {}
            store.write(record(cell(plan, attack, defense), craft=craft, train=1, **surrogate))
    more = tiny.plan(matrix={**MATRIX, "seed": [1, 2]})
    assert expected(more, tmp_path, jobs=2) == {
        "surrogates": (2, 50, 0),
        "poisons": (6, 33, 0),
        "cells": (12, 6, 0),
    }


def test_nothing_to_do_takes_no_time(tmp_path: Path) -> None:
    plan = tiny.plan(matrix=MATRIX)
    for each in plan.cells:
        Store(tmp_path).write(record(each, craft=1, train=1))
    assert expected(plan, tmp_path) == {"surrogates": (0, 0, 0), "poisons": (0, 0, 0), "cells": (0, 0, 0)}


def test_another_backbone_is_another_matter(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"backbone": ["small", "small(width=4)"]})
    Store(tmp_path).write(record(plan.cells[0], craft=1, train=1))
    assert expected(plan, tmp_path)["cells"] == (3, 1, 2)
    assert expected(tiny.plan(), tmp_path)["cells"] == (1, 1, 0)


def test_failed_and_damaged_records_tell_nothing(tmp_path: Path) -> None:
    plan, store = tiny.plan(), Store(tmp_path)
    failed = Record(**{**vars(record(plan.cells[0])), "status": "failed"})
    store.write(failed)
    (store.records / f"{plan.cells[1].key}.json").write_text("{")
    assert expected(plan, tmp_path) == {"surrogates": (0, 0, 0), "poisons": (2, 0, 2), "cells": (2, 0, 2)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_real_run_can_be_forecast(tmp_path: Path, jobs: int) -> None:
    tiny.run(tiny.plan("attack=tap", matrix={"attack": ["tap"]}), tmp_path)
    found = expected(tiny.plan(matrix={"attack": ["tap"], "seed": [1]}), tmp_path, jobs)
    counts = {wave: count for wave, (count, *_) in found.items()}
    assert counts == {"surrogates": 1, "poisons": 2, "cells": 2}
    assert all(seconds > 0 and not unknown for _, seconds, unknown in found.values())


def test_what_was_timed_on_another_machine_tells_nothing(tmp_path: Path) -> None:
    plan, store = tiny.plan(), Store(tmp_path)
    here = record(plan.cells[0], craft=1, train=8)
    store.write(here)
    elsewhere = record(plan.cells[1], craft=100, train=100)
    store.write(replace(elsewhere, environment={**elsewhere.environment, "cpus": 999}))
    again = tiny.plan(matrix={"seed": [1]})
    assert expected(again, tmp_path)["cells"] == (2, 16, 0)
    assert expected(again, tmp_path)["poisons"] == (2, 1, 1)


def test_purified_sets_are_made_once_for_all_who_train_on_them(tmp_path: Path) -> None:
    axes = {"attack": ["random"], "defense": ["none", "orthogonal-projection"], "backbone": ["small"]}
    plan, store = tiny.plan(matrix=axes), Store(tmp_path)
    assert len(plan.purified) == 2
    for each in plan.cells:
        shared = {"purified": each.purified.key} if each.purified else {}
        plain = record(each, craft=1, purify=50 if shared else 0.5, train=3)
        store.write(replace(plain, environment={**plain.environment, **shared}))
    more = tiny.plan(matrix={**axes, "seed": [1], "weighting": ["ew", "uw", "rlw"]})
    found = full(more, tmp_path)
    assert list(found) == ["surrogates", "poisons", "purified", "cells"]
    purified = found["purified"]
    assert (purified.count, purified.seconds, purified.untimed) == (2, 2 * 50, 0)
    assert purified.stored == 2 * 64 * 3 * 32 * 32
    # The mean of 3.5 and 3 s, the learning left out.
    assert (found["cells"].count, found["cells"].seconds) == (2 * (2 + 2), 8 * 3.25)


def test_space_is_that_of_what_a_run_stores(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"attack": ["clean", "random", "tap"], "seed": [0, 1]})
    guessed = full(plan, tmp_path)
    tiny.run(plan, tmp_path)

    def stored(kind: str) -> int:
        return sum(path.stat().st_size for path in (tmp_path / kind).rglob("*.safetensors"))

    tables = 4 * 64 * 3 * 32 * 32  # of random and tap, under two seeds: a byte per pixel value
    assert guessed["poisons"].stored == tables
    assert tables < stored("poisons") < tables * 1.01 + 6 * 1000  # a header each
    assert 0 < guessed["surrogates"].stored < stored("surrogates") < guessed["surrogates"].stored + 2 * 8000
    records = sum(path.stat().st_size for path in (tmp_path / "records").iterdir())
    assert records / 2 < guessed["cells"].stored < records * 2
    assert {wave: each.unsized for wave, each in guessed.items()} == dict.fromkeys(guessed, 0)
    assert {wave: each.stored for wave, each in full(plan, tmp_path).items()} == dict.fromkeys(guessed, 0)


def test_a_change_without_a_budget_takes_two_bytes(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"attack": ["ops", "cuda"]})
    bounded = {poison.attack.name: poison.epsilon is not None for poison in plan.poisons}
    assert bounded == {"clean": True, "ops": False, "cuda": False}
    assert full(plan, tmp_path)["poisons"].stored == 2 * 2 * 64 * 3 * 32 * 32


def test_of_what_is_not_decoded_the_size_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Digits, root: object, cache: object, progress: Any) -> None:
        progress("decoding", 1, 100)
        raise AssertionError("it went on decoding")

    monkeypatch.setattr(Digits, "load", load)
    found = full(tiny.plan(matrix={"attack": ["tap"]}), tmp_path)
    sizes = {wave: (each.stored, each.unsized) for wave, each in found.items()}
    assert sizes == {"surrogates": (0, 1), "poisons": (0, 2), "cells": (0, 2)}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = tiny.workshop(tmp_path / "not" / "there" / "yet")
    needs = [Expected("poisons", 2, 0, 0, 1_500_000, 0), Expected("cells", 2, 0, 0, 500_000, 0)]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(9, 9, 2_000_000 if folder.exists() else 0))
    assert warn_of_space(needs, workshop) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 1_999_999))
    sentence = warn_of_space(needs, workshop)
    assert sentence is not None
    assert "takes 2 MB, but only 2 MB are free" in sentence
    assert str(workshop.out) in sentence


@pytest.mark.parametrize(
    ("count", "spelt"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_340_000_000, "1.34 GB"),
        (123_400_000_000_000, "123 TB"),
    ],
)
def test_bytes_are_spelt_in_three_digits(count: int, spelt: str) -> None:
    assert spell_bytes(count) == spelt


def test_a_plan_says_what_is_shared_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(tiny.TOML)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 1000))
    wide = ["--set", 'matrix.attack=["tap", "random"]', "--set", 'matrix.defense=["none", "jpeg"]']
    shown = CliRunner().invoke(app, ["plan", "--suite", str(file), "--out", str(tmp_path / "out"), *wide])
    assert shown.exit_code == 0, shown.output
    header, _, *lines = shown.output.splitlines()
    assert [cell.strip() for cell in header.split("|")][1:5] == ["wave", "distinct", "cached", "to do"]
    counts = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines[:3]}
    assert counts == {"surrogates": "1", "poisons": "3", "cells": "6"}
    assert "warning: what is to be made takes" in shown.output
    assert "but only 1 kB are free" in shown.output
