"""The forecast: what was timed in the folder, shared by the workers, and what will be stored."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from bench.api import MultiTaskData
from bench.cli import app
from bench.datasets.cache import cached_arrays
from bench.datasets.digits import Digits
from bench.engine.planning import estimate
from bench.engine.planning.cell import Cell
from bench.engine.planning.estimate import KindEstimate, check_cache, check_disk_space, estimate_kinds
from bench.engine.planning.expand import Plan
from bench.engine.planning.present_data import PresentData
from bench.engine.planning.remaining_work import find_remaining_work
from bench.engine.stages.context import describe_environment
from bench.engine.storage.store import Store
from bench.errors import BenchError
from bench.record import Cost, Record
from bench.values import Augmentation
from tests.engine import tiny

MATRIX = {"attack": ["clean", "random", "tap"], "defense": ["none", "grayscale"]}

IMAGES = 64 * 3 * 32 * 32
"""Pixel values of the training set."""


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
        environment=describe_environment(tiny.run_context(Path())),
    )


def full(plan: Plan, out: Path, jobs: int = 1) -> dict[str, KindEstimate]:
    context = tiny.run_context(out)
    remaining = find_remaining_work(plan, Store(out), "failed", PresentData(context))
    found = estimate_kinds(remaining, context, jobs)
    return {each.kind: each for each in found}


def expected(plan: Plan, out: Path, jobs: int = 1) -> dict[str, tuple[int, float, int]]:
    return {kind: (each.count, each.seconds, each.untimed) for kind, each in full(plan, out, jobs).items()}


def cell(plan: Plan, attack: str, defense: str = "none") -> Cell:
    labels = {"attack": attack, "defense": defense}
    return next(cell for cell in plan.cells if labels.items() <= cell.labels.items())


def test_nothing_is_known_of_an_empty_folder(tmp_path: Path) -> None:
    plan = tiny.plan(matrix=MATRIX)
    assert expected(plan, tmp_path) == {"surrogates": (1, 0, 1), "poisons": (3, 0, 3), "cells": (6, 0, 6)}
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_cells_take_what_their_like_took(tmp_path: Path) -> None:
    plan, store = tiny.plan(matrix=MATRIX), Store(tmp_path)
    store.write_record(record(cell(plan, "clean"), craft=100, load=1, train=2, score=3))
    store.write_record(record(cell(plan, "random"), craft=7, load=1, train=6, score=3))
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
            store.write_record(record(cell(plan, attack, defense), craft=craft, train=1, **surrogate))
    more = tiny.plan(matrix={**MATRIX, "seed": [1, 2]})
    assert expected(more, tmp_path, jobs=2) == {
        "surrogates": (2, 50, 0),
        "poisons": (6, 33, 0),
        "cells": (12, 6, 0),
    }


def test_another_backbone_is_another_matter(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"backbone": ["small", "small(width=4)"]})
    Store(tmp_path).write_record(record(plan.cells[0], craft=1, train=1))
    assert expected(plan, tmp_path)["cells"] == (3, 1, 2)
    assert expected(tiny.plan(), tmp_path)["cells"] == (1, 1, 0)


def test_failed_and_damaged_records_tell_nothing(tmp_path: Path) -> None:
    plan, store = tiny.plan(), Store(tmp_path)
    failed = Record(**{**vars(record(plan.cells[0])), "status": "failed"})
    store.write_record(failed)
    (store.records / f"{plan.cells[1].key}.json").write_text("{")
    assert expected(plan, tmp_path) == {"surrogates": (0, 0, 0), "poisons": (2, 0, 2), "cells": (2, 0, 2)}


def test_what_was_timed_on_another_machine_tells_nothing(tmp_path: Path) -> None:
    plan, store = tiny.plan(matrix={"seed": range(5)}), Store(tmp_path)
    here, *others = plan.cells
    store.write_record(record(here, craft=1, train=8))
    for cell, fact in zip(others, ("cpu", "cpus", "device", "device_name"), strict=False):
        elsewhere = record(cell, craft=100, train=100)
        store.write_record(replace(elsewhere, environment={**elsewhere.environment, fact: "another"}))
    older = record(others[4], craft=100, train=100)
    store.write_record(replace(older, environment={}))
    again = tiny.plan(matrix={"seed": [5]})
    assert expected(again, tmp_path)["cells"] == (2, 16, 0)
    assert expected(again, tmp_path)["poisons"] == (2, 1, 1)


def test_purified_sets_are_made_once_for_all_who_train_on_them(tmp_path: Path) -> None:
    learned = ["orthogonal-projection", "orthogonal-projection(epochs=3)+linear-probe(share=0.25)"]
    axes = {"attack": ["clean"], "defense": ["none", *learned]}
    plan, store = tiny.plan(matrix=axes), Store(tmp_path)
    for each, purify in zip(plan.cells, (0.5, 50, 10), strict=True):
        shared = {"purified": each.purified.key} if each.purified else {}
        plain = record(each, craft=1, purify=purify, train=3)
        store.write_record(replace(plain, environment={**plain.environment, **shared}))
    # One that was written before sets were kept cleaned its own.
    _, later, _, older = tiny.plan(matrix={"attack": ["clean"], "defense": learned[:1], "seed": [7, 8]}).cells
    store.write_record(record(older, craft=1, purify=900, train=1.5))
    same = record(later, craft=1, purify=90, train=4)
    store.write_record(replace(same, environment={**same.environment, "purified": "70"}))
    more = tiny.plan(matrix={**axes, "seed": [1], "weighting": ["ew", "uw"]})
    found = full(more, tmp_path)
    assert list(found) == ["surrogates", "poisons", "purified", "cells"]
    # Of a quarter of the images the second has the originals.
    assert found["purified"] == KindEstimate("purified", 2, 70 + 10, 0, round(1.75 * IMAGES), 0)
    # Four at the mean of 3.5, 3, 3, 4 and 901.5 s: the learning is left out where it is shared.
    assert (found["cells"].count, found["cells"].seconds) == (4, 4 * 183)
    for purified in more.purified:
        store.save("purified", purified.key, {}, {})
    assert full(more, tmp_path)["purified"] == KindEstimate("purified", 0, 0, 0, 0, 0)


def test_what_is_made_was_forecast(tmp_path: Path) -> None:
    axes = {"attack": ["clean", "random", "tap"], "defense": ["none", "orthogonal-projection"]}
    plan = tiny.plan(matrix=axes)
    guessed = full(plan, tmp_path, jobs=3)
    tiny.run(plan, tmp_path)

    def stored(kind: str) -> int:
        """Return the bytes of all tensors, their headers left out."""
        files = [safe_open(path, "pt") for path in (tmp_path / kind).rglob("tensors.safetensors")]
        return sum(file.get_tensor(name).nbytes for file in files for name in file.keys())  # noqa: SIM118

    for kind in ("surrogates", "poisons", "purified"):
        assert guessed[kind].stored == stored(kind) > 0
    assert guessed["poisons"].stored == 2 * IMAGES  # of random and tap
    records = sum(path.stat().st_size for path in (tmp_path / "records").iterdir())
    assert guessed["cells"].stored == 6 * (5000 + 300 * 2 * 4)  # a score of 4 tasks in each of 2 epochs
    assert records / 2 < guessed["cells"].stored < records * 2
    assert not any(each.unsized for each in guessed.values())
    assert full(plan, tmp_path) == {kind: KindEstimate(kind, 0, 0, 0, 0, 0) for kind in guessed}
    more = full(tiny.plan(matrix={**axes, "seed": [1]}), tmp_path)
    assert [each.count for each in more.values()] == [each.count for each in guessed.values()] == [1, 3, 3, 6]
    assert all(each.seconds > 0 and not each.untimed for each in more.values())


def test_surrogates_are_sized_without_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(epochs: int) -> int:
        surrogate = {"backbone": "vit-b16", "recipe": {"epochs": epochs}}
        return full(tiny.plan(matrix={"attack": ["tap"]}, surrogate=surrogate), tmp_path)["surrogates"].stored

    drawn = torch.get_rng_state()
    whole = stored(1)
    assert torch.equal(torch.get_rng_state(), drawn)  # no weights were
    assert stored(60) == 30 * whole
    load = Digits.load
    crop = Augmentation(crop=16)
    monkeypatch.setattr(Digits, "load", lambda *given: replace(load(*given), augmentation=crop))
    # Of four patches one is left, and a position is 768 numbers of four bytes.
    assert stored(1) == whole - 3 * 768 * 4


def test_every_dataset_is_sized_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = Digits.load

    def count(self: Digits, *given: Any) -> MultiTaskData:
        loaded.append(self.train)
        return load(self, *given)

    monkeypatch.setattr(Digits, "load", count)
    plan = tiny.plan(matrix={"dataset": ["digits", "digits(train=128)"], "attack": ["random(rate=0.5)"]})
    assert full(plan, tmp_path, jobs=2)["poisons"].stored == (1 + 2) * IMAGES
    assert sorted(loaded) == [64, 128]  # once each


def test_a_change_without_a_budget_takes_two_bytes(tmp_path: Path) -> None:
    plan = tiny.plan(matrix={"attack": ["ops", "cuda"]})
    bounded = {poison.attack.name: poison.budget is not None for poison in plan.poisons}
    assert bounded == {"clean": True, "ops": False, "cuda": False}
    assert full(plan, tmp_path)["poisons"].stored == 2 * 2 * IMAGES


@pytest.mark.parametrize("there", [True, False])
def test_of_what_is_not_decoded_the_size_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def load(self: Digits, root: object, cache: object, progress: Any) -> None:
        assert (root, cache) == (None, tmp_path / "cache")
        if not there:
            raise BenchError("no images")
        progress("decoding", 1, 100)
        raise AssertionError("it went on decoding")

    monkeypatch.setattr(Digits, "load", load)
    found = full(tiny.plan(matrix={"attack": ["tap"]}), tmp_path)
    sizes = {kind: (each.stored, each.unsized) for kind, each in found.items()}
    assert sizes == {"surrogates": (0, 1), "poisons": (0, 2), "cells": (0, 2)}


@pytest.fixture
def load_from_cache(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Make digits a dataset that is decoded to the cache; return the caches that it was loaded from."""
    caches: list[Path] = []

    def load(self: Digits, root: object, cache: Path, progress: Any) -> object:
        def build(folder: Path) -> dict[str, Any]:
            progress("decoding", 1, 100)
            return {}

        caches.append(cache)
        return cached_arrays(cache, "digits", {}, build)

    monkeypatch.setattr(Digits, "load", load)
    return caches


def test_a_cache_that_cannot_be_written_is_told_of_once(tmp_path: Path, load_from_cache: list[Path]) -> None:
    (tmp_path / "file").write_text("mine")
    context = replace(tiny.run_context(tmp_path), cache=tmp_path / "file" / "cache")
    with pytest.raises(BenchError, match=r"cannot use the cache in .*file/cache: .*--cache or MTLUE_CACHE$"):
        check_cache(tiny.plan(matrix={"attack": ["clean", "tap"], "seed": [0, 1]}), context)
    assert load_from_cache == [context.cache]


def test_a_cache_that_cannot_be_written_may_have_everything(
    tmp_path: Path, load_from_cache: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, context = tiny.plan(), tiny.run_context(tmp_path)
    cached_arrays(context.cache, "digits", {}, lambda folder: {})
    monkeypatch.setattr(estimate, "make_writable_folder", lambda folder: (folder / "missing").stat())
    check_cache(plan, context)
    assert load_from_cache == [context.cache]


def test_a_cache_that_can_be_written_is_not_read(tmp_path: Path, load_from_cache: list[Path]) -> None:
    check_cache(tiny.plan(), tiny.run_context(tmp_path))
    assert load_from_cache == []


def test_a_dataset_without_a_cache_needs_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    check_cache(tiny.plan(), replace(tiny.run_context(tmp_path), cache=tmp_path / "file" / "cache"))


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_cache_is_checked_before_anything_starts(
    tmp_path: Path, load_from_cache: list[Path], command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "tiny.toml").write_text(tiny.TOML)
    options = {"--suite": "tiny.toml", "--out": "out", "--cache": "file/cache"}
    arguments = [text for name, path in options.items() for text in (name, str(tmp_path / path))]
    result = CliRunner().invoke(app, [command, *arguments, "--device", "cpu"])
    assert isinstance(result.exception, BenchError)
    assert "cannot use the cache" in str(result.exception)
    assert not (tmp_path / "out").exists()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_context = tiny.run_context(tmp_path / "not" / "there" / "yet")
    needs = [KindEstimate("poisons", 2, 0, 0, 1_500_000, 0), KindEstimate("cells", 2, 0, 0, 500_000, 0)]
    usage = {tmp_path: Usage(9, 9, 2_000_000)}
    monkeypatch.setattr(shutil, "disk_usage", usage.get)
    assert check_disk_space(needs, run_context) is None
    assert check_disk_space(needs, tiny.run_context(tmp_path)) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 1_990_000))
    assert check_disk_space(needs, run_context) == (
        f"the run needs 2 MB, but the disk of {run_context.out} has only 1.99 MB left; "
        "free some space, or give another --out"
    )


def test_a_plan_says_what_is_shared_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(tiny.TOML)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 1000))
    wide = ["--set", 'matrix.attack=["tap", "random"]', "--set", 'matrix.defense=["none", "jpeg"]']
    shown = CliRunner().invoke(
        app, ["plan", "--suite", str(file), "--out", str(tmp_path / "out"), "--no-calibrate", *wide]
    )
    assert shown.exit_code == 0, shown.output
    header, _, *lines = shown.output.splitlines()
    assert [cell.strip() for cell in header.split("|")][1:5] == ["items", "distinct", "cached", "to do"]
    counts = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines[:3]}
    assert counts == {"surrogates": "1", "poisons": "3", "cells": "6"}
    assert "warning: the run needs" in shown.output
    assert "has only 1 kB left" in shown.output


def test_a_dataset_that_cannot_be_loaded_is_of_unknown_size(tmp_path: Path) -> None:
    """The plan is made in any case; the run says what is wrong, item by item."""
    chosen = tiny.plan(params={"dataset": {"digits": {"train": 99999999999}}})
    context = tiny.run_context(tmp_path)
    work = find_remaining_work(chosen, Store(tmp_path), "failed", PresentData(context))
    kinds = estimate_kinds(work, context, 1)
    assert [(kind.kind, kind.unsized) for kind in kinds if kind.count] == [("poisons", 2), ("cells", 2)]
