"""The forecast: what was timed in the folder, shared by the workers."""

from pathlib import Path

import pytest

from bench.engine.cell import Cell
from bench.engine.forecast import forecast
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
    )


def expected(plan: Plan, out: Path, jobs: int = 1) -> dict[str, tuple[int, float, int]]:
    store = Store(out)
    found = forecast(select(plan, store, "failed"), store, jobs)
    return {wave: (count, seconds, untimed) for wave, count, seconds, untimed in found}


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
