"""The order of a run's items: none before those it is made from, the longest chain of them first."""

import heapq
import random

import pytest

from bench.engine.execution.schedule import Schedule
from bench.engine.planning.cell import AnyItem
from bench.engine.planning.durations import TimingLabels, timing_labels
from bench.engine.planning.expand import Plan
from tests.engine import tiny

MATRIX = {
    "attack": ["clean", "random", "tap"],
    "defense": ["none", "orthogonal-projection"],
    "seed": [0, 1, 2],
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny.plan(matrix=MATRIX)


def items_of(plan: Plan) -> list[AnyItem]:
    return [*plan.surrogates, *plan.poisons, *plan.purified, *plan.cells]


def draw_seconds(plan: Plan, seed: int) -> dict[TimingLabels, float]:
    """Return seconds for all items, between 1 and 100."""
    draw = random.Random(seed)
    return {timing_labels(item): 100 ** draw.random() for item in items_of(plan)}


def take_all(
    schedule: Schedule, seconds: dict[TimingLabels, float], workers: int
) -> tuple[list[AnyItem], float]:
    """Work on everything with several workers; return the items and when the last one ends."""
    now, started = 0.0, list[AnyItem]()
    busy: list[tuple[float, int]] = []
    while schedule:
        while len(busy) < workers and (item := schedule.take()) is not None:
            heapq.heappush(busy, (now + seconds[timing_labels(item)], len(started)))
            started.append(item)
        now, number = heapq.heappop(busy)
        schedule.settle(started[number], seconds[timing_labels(started[number])])
    return started, now


def chain_seconds(plan: Plan, seconds: dict[TimingLabels, float]) -> float:
    """Return how long the longest chain of items takes that are made from each other."""
    ends = dict[str, float]()
    for item in items_of(plan):
        begin = max((ends[source] for source in item.sources), default=0.0)
        ends[item.key] = begin + seconds[timing_labels(item)]
    return max(ends.values())


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("known", [True, False])
def test_each_item_is_taken_once_and_after_those_it_is_made_from(
    plan: Plan, workers: int, known: bool
) -> None:
    seconds = draw_seconds(plan, workers)
    started, _ = take_all(Schedule(items_of(plan), seconds if known else {}), seconds, workers)
    keys = [item.key for item in started]
    assert sorted(keys) == sorted(item.key for item in items_of(plan))
    for item in started:
        assert all(keys.index(source) < keys.index(item.key) for source in item.sources)


@pytest.mark.parametrize("seed", range(5))
def test_no_worker_is_idle_while_an_item_can_start(plan: Plan, seed: int) -> None:
    """A run takes at least as long as it must, and at most as long as the bound of Graham says."""
    seconds = draw_seconds(plan, seed)
    all_seconds, longest = (
        sum(seconds[timing_labels(item)] for item in items_of(plan)),
        chain_seconds(plan, seconds),
    )
    for workers in (1, 2, 4):
        _, end = take_all(Schedule(items_of(plan), seconds), seconds, workers)
        least = max(all_seconds / workers, longest)
        assert least - 1e-6 <= end <= all_seconds / workers + longest * (1 - 1 / workers) + 1e-6


def test_the_longest_chain_comes_first(plan: Plan) -> None:
    seconds = {timing_labels(item): 1.0 for item in items_of(plan)}
    cell = next(cell for cell in plan.cells if cell.labels["attack"] == "random" and cell.purified is None)
    schedule = Schedule(items_of(plan), {**seconds, timing_labels(cell.poison): 50.0})
    first = schedule.take()
    assert first is not None
    assert first.label == "random · digits · seed 0"


def test_a_time_that_is_not_known_counts_as_the_longest_until_it_is(plan: Plan) -> None:
    clean, random_noise = (
        [poison for poison in plan.poisons if poison.attack.name == name] for name in ("clean", "random")
    )
    known = {timing_labels(clean[0]): 2.0, timing_labels(plan.surrogates[0]): 7.0}
    schedule = Schedule([*clean, *random_noise], known)
    assert schedule.take() == random_noise[0]
    schedule.settle(random_noise[0], 1.0)
    assert [schedule.take() for _ in range(5)] == [*clean, *random_noise[1:]]


def test_ties_go_by_the_order_of_the_plan(plan: Plan) -> None:
    schedule = Schedule(plan.poisons, {})
    assert [schedule.take() for _ in plan.poisons] == list(plan.poisons)


def test_only_the_first_time_counts_and_a_failure_says_nothing(plan: Plan) -> None:
    first, second, third = [poison for poison in plan.poisons if poison.attack.name == "clean"]
    schedule = Schedule([first, second, third], {})
    assert (schedule.take(), schedule.take(), schedule.take()) == (first, second, third)
    schedule.settle(first)
    assert schedule._seconds == {}
    schedule.settle(second, 3.0)
    schedule.settle(third, 4.0)
    assert (schedule._seconds, len(schedule)) == ({timing_labels(first): 3.0}, 0)


def test_an_item_that_is_put_back_is_taken_again(plan: Plan) -> None:
    schedule = Schedule(plan.surrogates[:1], {})
    (surrogate,) = plan.surrogates[:1]
    assert (schedule.take(), schedule.take(), len(schedule)) == (surrogate, None, 1)
    schedule.put_back(surrogate)
    assert schedule.take() == surrogate
    schedule.settle(surrogate)
    assert (schedule.take(), len(schedule)) == (None, 0)
