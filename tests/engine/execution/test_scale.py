"""What keeps ten thousand cells cheap: nothing is worked out twice, and nothing piles up.

How long they take, and how much memory, is measured by `nox -s benchmarks`.
"""

import io
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.engine.execution.events import Event, ItemFinished
from bench.engine.execution.runner import run_plan
from bench.engine.monitoring.console import show_progress
from bench.engine.monitoring.progress import RunProgress
from bench.engine.planning import cell as cells_module
from bench.engine.planning import expand
from bench.engine.stages import craft
from bench.record import Record
from leaderboard.live_ranking import LiveRanking
from tests import large
from tests.engine import tiny

FEW: dict[str, list[str | int]] = {
    "dataset": ["digits(train=64)"],
    "attack": ["clean", "random", "tap", "em(rate=0.5)"],
    "backbone": ["small", "small(width=3)"],
    "weighting": ["ew", "uw"],
    "defense": ["none", "jpeg", "jpeg+cutout"],
    "seed": [0, 1],
}


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[Any, ...]]:
    """Note the arguments of every call of a module's function, which still does what it does."""
    calls: list[tuple[Any, ...]] = []
    wrapped: Callable[..., Any] = getattr(module, name)

    def noting(*args: Any) -> Any:
        calls.append(args)
        return wrapped(*args)

    monkeypatch.setattr(module, name, noting)
    return calls


def test_the_matrix_is_of_ten_thousand_cells_on_few_poisons() -> None:
    sizes = {axis: len(values) for axis, values in large.AXES.items()}
    assert sizes["dataset"] * sizes["attack"] * sizes["seed"] == 81
    few = large.plan(**{**FEW, "attack": ["clean", "random", "tap"]})
    assert (len(few.cells), len(few.poisons), len(few.surrogates)) == (3 * 2 * 2 * 3 * 2, 3 * 2, 2)


def test_what_cells_share_is_built_and_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_calls(monkeypatch, expand, "build_part")
    scopes = count_calls(monkeypatch, expand, "read_partial_protection")
    hashed = count_calls(monkeypatch, cells_module, "hash_json")
    planned = large.plan(**FEW)
    assert (len(planned.cells), len(planned.poisons), len(planned.surrogates)) == (5 * 24, 4 * 2, 2)
    # em(rate=0.5) brings a clean counterpart of that rate, which has the poison of clean under another name.
    assert len({id(each.poison) for each in planned.cells}) == 5 * 2
    assert len(hashed) == 5 * 24 + 5 * 2 + 2
    assert len(scopes) == 5
    # Of jpeg+cutout both are made, jpeg a second time.
    assert Counter(axis for axis, *_ in made) == {
        **{"dataset": 1, "attack": 5, "backbone": 2, "weighting": 2, "defense": 4, "regime": 1}
    }


def test_a_pipelines_parts_are_told_by_value_not_by_what_was_worked_out_of_them() -> None:
    first, second = large.plan(**FEW), large.plan(**FEW)
    assert [each.key for each in first.cells] == [each.key for each in second.cells]
    assert first == second
    assert hash(first.cells[0].backbone) == hash(second.cells[0].backbone)


def test_settings_that_are_shared_are_not_changed_by_a_run(tmp_path: Path) -> None:
    planned = tiny.plan(matrix={"attack": ["tap"]})
    before = {each.key: repr(each.settings()) for each in planned.cells}
    tiny.run(planned, tmp_path)
    assert {each.key: repr(each.settings()) for each in planned.cells} == before


STAR = {
    "attack": ["clean", "tap"],
    "backbone": ["small", "small(width=3)"],
    "weighting": ["ew", "uw"],
    "defense": ["none", "grayscale"],
}


def test_a_star_crafts_no_poison_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crafted = count_calls(monkeypatch, craft, "quantize_delta")
    first = tiny.plan(matrix=STAR)
    ran = tiny.run(first, tmp_path)
    assert len(first.cells) == 2 * (1 + 1 + 1 + 1)
    assert ran.counts == (len(first.cells), 0, 0)
    # One for each attack, whatever the victims; one surrogate, which tap alone needs.
    assert sorted(ran.labels("poisons")) == sorted(f"{a} · digits · seed 0" for a in STAR["attack"])
    assert len(ran.of("surrogates")) == 1
    assert len(crafted) == 2
    more = tiny.plan(matrix={**STAR, "weighting": ["ew", "uw", "rlw"], "defense": ["none", "jpeg"]})
    again = tiny.run(more, tmp_path)
    assert again.of("poisons") == again.of("surrogates") == []
    assert len(again.of("cells")) == again.counts[0] == 2 * 2
    assert len(crafted) == 2


def test_no_record_outlives_its_being_saved_and_told(tmp_path: Path) -> None:
    planned = large.plan(**{**FEW, "attack": ["clean", "random"]})
    told: list[weakref.ref[Record]] = []
    most = 0

    def watch(event: Event) -> None:
        nonlocal most
        if isinstance(event, ItemFinished) and event.record is not None:
            told.append(weakref.ref(event.record))
            most = max(most, sum(record() is not None for record in told))

    progress = RunProgress(LiveRanking())
    with show_progress(progress, io.StringIO()) as show, large.Pretending() as executor:
        finished = run_plan(planned, tiny.run_context(tmp_path), executor, [progress, show, watch])
    assert finished.done == len(told) == len(planned.cells) == 48
    assert most <= 2  # the one that is told of, and the one before in the executor's hands
