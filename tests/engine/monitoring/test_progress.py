"""What a run's progress makes of the events: counts, speeds and times left."""

from dataclasses import replace

import pytest

from bench.engine.execution.events import Event, ItemFinished, ItemProgress, RunStarted
from bench.engine.monitoring.progress import KindSnapshot, RunProgress
from tests.records import make_record


def step(key: str, done: int, total: int = 12, what: str = "epoch") -> ItemProgress:
    return ItemProgress("cells", key, key, what, done, total)


def finish(key: str, seconds: float, error: str | None = None) -> ItemFinished:
    return ItemFinished("cells", key, key, seconds, error=error)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def cells_after(todo: int, *events: float | Event) -> KindSnapshot:
    """Return the cells of a run after some events, with the seconds that pass between them."""
    clock = Clock()
    progress = RunProgress(clock=clock)
    progress(RunStarted("smoke", "out", {"cells": (todo, 0)}))
    for event in events:
        if isinstance(event, float):
            clock.now += event
        else:
            progress(event)
    cells = progress.snapshot().of("cells")
    assert cells is not None
    return cells


ROUNDS = (step("a", 0, 10, "round"), 100.0, step("a", 1, 10, "round"), 100.0, step("a", 2, 10, "round"))


@pytest.mark.parametrize(
    ("todo", "events", "left_s"),
    [
        pytest.param(12, [step("a", 0), 60.0, finish("a", 60)], 11 * 60, id="one at a time"),
        pytest.param(
            12,
            [step("a", 0), step("b", 0), 60.0, finish("a", 60), step("b", 6), finish("x", 60)],
            (60 + 9 * 60) / 2,
            id="shared by the items that run at once",
        ),
        pytest.param(
            2,
            [step("a", 0), step("b", 0), 60.0, step("b", 2), finish("a", 60)],
            10 * 30,
            id="no less than the longest item in progress",
        ),
        pytest.param(
            2,
            [step("a", 0), 60.0, step("a", 6), 30.0, finish("b", 30)],
            30,
            id="shrinks between two steps of an item",
        ),
        pytest.param(
            2, [step("a", 0), 40.0, step("a", 1)], 440 + 480, id="of running items before any is finished"
        ),
        pytest.param(2, [step("a", 0), 40.0, step("a", 0)], None, id="unknown before the first step"),
        pytest.param(1, [*ROUNDS, step("a", 0), 40.0, step("a", 4)], 80, id="rounds are no epochs"),
        pytest.param(1, [*ROUNDS, step("a", 2), 40.0, step("a", 6)], 60, id="epochs that do not begin at 0"),
        pytest.param(
            5,
            [finish("a", 600), finish("b", 1, error="no"), finish("c", 600)],
            2 * 600,
            id="not shortened by an item that failed",
        ),
        pytest.param(
            4, [60.0, finish("a", 0.0), finish("b", 60)], 2 * 60, id="nor by an item of another run"
        ),
    ],
)
def test_time_left(todo: int, events: list[float | Event], left_s: float | None) -> None:
    assert cells_after(todo, *events).left_s == left_s


def test_a_kind_whose_items_have_all_ended_stays_as_it_was() -> None:
    events: list[float | Event] = [30.0, finish("a", 30), finish("b", 1, error="no")]
    cells = cells_after(2, *events)
    assert (cells.ended, cells.finished, cells.failed, cells.seconds, cells.per_minute) == (True, 2, 1, 30, 2)
    assert cells_after(2, *events, 100.0, step("a", 1), finish("b", 30)) == cells


def test_late_events_of_a_finished_item_or_of_an_unknown_kind_change_nothing() -> None:
    events: list[float | Event] = [step("b", 1), 10.0, finish("a", 10)]
    late = [step("a", 11), finish("a", 10), replace(step("p", 3), kind="poisons")]
    assert cells_after(2, *events, *late) == cells_after(2, *events)


def test_cells_are_counted_over_the_whole_run() -> None:
    progress = RunProgress()
    progress(RunStarted("smoke", "out", {"poisons": (1, 0), "cells": (3, 4)}))
    progress(ItemFinished("poisons", "p", "p", 1.0))
    progress(finish("a", 1, error="no"))
    progress(finish("b", 1))
    snapshot = progress.snapshot()
    assert (snapshot.suite, snapshot.cells, snapshot.cells_done, snapshot.cells_failed) == ("smoke", 7, 5, 1)
    assert [(kind.name, kind.finished, kind.ended) for kind in snapshot.kinds] == [
        ("poisons", 1, True),
        ("cells", 2, False),
    ]


def test_several_kinds_can_be_in_progress() -> None:
    """A cell can start before the last poison is crafted; the workers are shared."""
    clock = Clock()
    progress = RunProgress(clock=clock)
    progress(RunStarted("smoke", "out", {"poisons": (2, 0), "cells": (4, 0)}))
    progress(ItemProgress("poisons", "p", "p", "round", 0, 10))
    clock.now += 50
    progress(step("a", 0))
    clock.now += 50
    progress(finish("a", 50))
    progress(ItemProgress("poisons", "p", "p", "round", 5, 10))
    poisons, cells = progress.snapshot().kinds
    # The poison in progress needs 100 s more, and the other one 200 s; two items were in progress at once.
    assert (poisons.seconds, poisons.left_s) == (100, (100 + 200) / 2)
    assert (cells.seconds, cells.left_s) == (50, 3 * 50 / 2)
    assert [item.key for item in progress.snapshot().items] == ["p"]


def test_images_per_second_are_those_of_all_workers_together() -> None:
    record = make_record({"a": 0.6})  # 30 s of training at 1,000 images a second
    cells = [ItemFinished("cells", key, key, 40.0, record=record) for key in "ab"]
    assert cells_after(3, 40.0, *cells).images_per_s == 2 * 30 * 1000 / 40
