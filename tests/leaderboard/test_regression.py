"""The check of a run against a reference: what counts as a change, and what is tolerated."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import t

from bench.record import Record
from leaderboard.reference import summarize_records
from leaderboard.regression import FAILING_VERDICTS, Change, check_against_reference
from leaderboard.regression_report import render_changes, render_junit
from tests.records import cost, fail, make_record, task_info

SEEDS = range(12)


def run(clean: float = 0.9, em: float = 0.6, step: float = 0.001, **labels: Any) -> list[Record]:
    """Two attacks in twelve seeds, whose scores of the only task differ by a step."""
    return [
        make_record({"a": score + step * (seed % 2)}, attack=attack, seed=seed, **labels)
        for attack, score in (("clean", clean), ("em", em))
        for seed in SEEDS
    ]


def check(then: Sequence[Record], now: Sequence[Record]) -> list[Change]:
    return check_against_reference(summarize_records(then), now)


def changed(changes: Sequence[Change]) -> list[tuple[str, str, str]]:
    """Return the attack, the quantity and the verdict of what is not as in the reference."""
    return [
        ([*change.item.split(" · "), ""][1], change.quantity, change.verdict)
        for change in changes
        if change.verdict != "ok"
    ]


def find(changes: Sequence[Change], item: str, quantity: str) -> Change:
    (found,) = (c for c in changes if c.item.startswith(item) and c.quantity == quantity)
    return found


def test_the_same_records_have_not_changed() -> None:
    changes = check(run(), run())
    assert {change.verdict for change in changes} == {"ok"}
    text = render_changes(changes)
    numbers = sum(change.quantity not in ("train_s", "craft_s", "peak_host_mb") for change in changes)
    assert text.startswith(f"No changes: {len(changes)} numbers are as in the reference.\n")
    assert f"{numbers} of {numbers} numbers without costs are exactly the same." in text


def test_a_tolerance_by_hand() -> None:
    changes = check(run(step=0.01), run(step=0.01)[:3] + run(step=0.01)[12:15])
    numbers = len([c for c in changes if c.quantity not in ("train_s", "craft_s", "peak_host_mb")])
    # In both cells six values lie 0.005 above the mean and six as much below, with 11 degrees of freedom
    # each, which are pooled: fewer than 20. Three seeds are compared with three.
    spread = (24 * 0.005**2 / 22) ** 0.5
    expected = 1.2 * t.ppf(1 - 0.01 / numbers / 2, 22) * spread * (2 / 3) ** 0.5
    assert find(changes, "digits · em · small", "a accuracy").tolerance == pytest.approx(expected)
    assert find(changes, "digits · clean · small", "a accuracy").tolerance == pytest.approx(expected)
    # A score is the way from the floor of 0.5 to 1, twice as long.
    assert find(changes, "digits · em · small", "score").tolerance == pytest.approx(2 * expected)


def test_a_cell_without_a_second_seed_has_the_spread_of_the_others() -> None:
    alone = make_record({"a": 0.7}, attack="tap")
    changes = check([*run(), alone], [*run(), alone])
    twelve, one = (find(changes, f"digits · {a} · small", "a accuracy").tolerance for a in ("em", "tap"))
    assert twelve is not None
    assert one == pytest.approx(twelve * 12**0.5)


def test_an_attack_that_differs_much_from_seed_to_seed_has_its_own_spread() -> None:
    wild = [make_record({"a": 0.55 + 0.1 * (seed % 2)}, attack="tap", seed=seed) for seed in SEEDS]
    changes = check([*run(), *wild], [*run(), *wild])
    steady, own = (find(changes, f"digits · {a} · small", "a accuracy").tolerance for a in ("clean", "tap"))
    assert steady is not None
    assert own is not None
    assert own > 1.3 * steady


def test_numbers_without_any_spread_must_be_the_same() -> None:
    then = [make_record({"a": 0.9}, attack="clean")]
    assert not changed(check(then, [make_record({"a": 0.90005}, attack="clean")]))
    assert ("clean", "a accuracy", "changed") in changed(
        check(then, [make_record({"a": 0.9002}, attack="clean")])
    )


@pytest.mark.parametrize("now", [{"clean": 0.95}, {"clean": 0.85}, {"em": 0.65}, {"em": 0.55}])
def test_a_change_in_either_direction_fails(now: dict[str, float]) -> None:
    (attack,) = now
    changes = check(run(), run(**now))
    assert set(changed(changes)) == {
        (attack, quantity, "changed") for quantity in ("score", "a accuracy", "a balanced_accuracy")
    }
    assert all(change.fails for change in changes if change.verdict != "ok")


def test_a_wrong_floor_is_found_though_no_metric_changes() -> None:
    def runs(floor: float) -> list[Record]:
        return run(tasks={"a": task_info(floor=floor)})

    found = changed(check(runs(0.5), runs(0.501)))
    assert ("", "a balanced_accuracy floor", "changed") in found
    assert not [quantity for _, quantity, _ in found if quantity == "a accuracy"]


def test_errors_count_as_scores_do() -> None:
    error = {"a": task_info("error", "error", floor=2.0, perfect=0.0)}
    assert ("em", "a error", "changed") in changed(check(run(tasks=error), run(em=0.5, tasks=error)))


def _draw(rng: np.random.Generator, means: Mapping[str, float], spreads: Mapping[str, float]) -> list[Record]:
    return [
        make_record(
            {"a": means[attack] + spreads[attack] * rng.standard_normal()},
            attack=attack,
            seed=seed,
            defense=f"d{number}",
        )
        for attack in means
        for number in range(20)
        for seed in (0, 1)
    ]


def test_other_seeds_raise_no_alarm_and_a_large_change_does() -> None:
    """Two seeds of 100 cells; the spread of five attacks goes from 0.001 to 0.1."""
    attacks = ("clean", "random", "em", "tap", "sep")
    means, spreads = dict.fromkeys(attacks, 0.7), dict(zip(attacks, np.geomspace(0.001, 0.1, 5), strict=True))
    alarms = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        reference = summarize_records(_draw(rng, means, spreads))
        alarms += changed(check_against_reference(reference, _draw(rng, means, spreads)))
    assert not alarms
    found = changed(check_against_reference(reference, _draw(rng, means | {"clean": 0.75}, spreads)))
    assert len(found) == 20 * 3
    assert {attack for attack, *_ in found} == {"clean"}


def timed(
    seconds: Mapping[str, float] | None = None, factor: float = 1.0, noise: float = 1.05
) -> list[Record]:
    """Ten attacks that train for 10 s in two seeds, times a factor; some take other seconds."""
    return [
        make_record(
            {"a": 0.7},
            attack=attack,
            seed=seed,
            costs={"train": cost((seconds or {}).get(attack, 10.0) * factor * noise ** (number % 3))},
        )
        for number, attack in enumerate("abcdefghij")
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("now", "factor", "expected"),
    [
        ({}, 1.0, []),
        ({}, 7.0, []),
        ({"b": 19.0}, 1.0, []),
        ({"b": 21.0}, 1.0, [("b", "train_s", "regressed")]),
        ({"b": 21.0}, 7.0, [("b", "train_s", "regressed")]),
        ({"b": 4.0}, 1.0, [("b", "train_s", "improved")]),
    ],
)
def test_a_cost_is_compared_with_that_of_all_others(
    now: dict[str, float], factor: float, expected: list[tuple[str, str, str]]
) -> None:
    changes = check(timed(), timed(now, factor))
    assert changed(changes) == expected
    assert any(change.fails for change in changes) == any(v == "regressed" for *_, v in expected)


def test_uneven_costs_have_a_wider_tolerance() -> None:
    assert changed(check(timed(), timed({"b": 21.0}))) == [("b", "train_s", "regressed")]
    assert not changed(check(timed(), timed({"b": 21.0}, noise=1.5)))


@pytest.mark.parametrize(("now", "verdict"), [(0.9, None), (1.9, None), (3.0, "regressed")])
@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_phases_shorter_than_a_second_do_not_count(now: float, verdict: str | None, factor: float) -> None:
    changes = check(timed({"a": 0.1, "b": 0.1}), timed({"a": 0.1, "b": now}, factor))
    assert changed(changes) == ([("b", "train_s", verdict)] if verdict else [])


def test_memory_is_compared_with_that_of_all_others() -> None:
    def runs(host: float) -> list[Record]:
        return [
            make_record({"a": 0.7}, attack=a, costs={"train": cost(10.0, host=host if a == "b" else 400.0)})
            for a in "abcde"
        ]

    assert not changed(check(runs(400.0), runs(700.0)))
    assert changed(check(runs(400.0), runs(900.0))) == [("b", "peak_host_mb", "regressed")]


def test_costs_of_another_kind_of_device_are_not_compared() -> None:
    gpu = [make_record({"a": 0.9}, changes={"environment": {"device": "cuda"}}, costs={"train": cost(1.0)})]
    cpu = [make_record({"a": 0.9}, costs={"train": cost(900.0)})]
    assert "train_s" not in {change.quantity for change in check(gpu, cpu)}


def test_missing_failed_and_new_cells() -> None:
    clean, em = make_record({"a": 0.9}, attack="clean"), make_record({"a": 0.6})
    assert changed(check([clean, em], [clean])) == [("em", "item", "missing")] * 2, "the poison and the cell"
    with_failure = changed(check([clean, em], [clean, fail()]))
    assert with_failure == [("em", "item", "missing"), ("em", "item", "failed")]
    changes = check([clean, em], [clean, em, make_record({"a": 0.7}, attack="tap")])
    assert changed(changes) == [("tap", "item", "new")] * 2
    assert not any(change.fails for change in changes)
    assert {"changed", "missing", "failed", "regressed"} == FAILING_VERDICTS


def test_one_failed_seed_fails_its_cell() -> None:
    both = [make_record({"a": 0.6}, seed=0), make_record({"a": 0.6}, seed=1)]
    assert changed(check(both, [both[0], fail(seed=1)])) == [("em", "item", "failed")]


def test_seeds_that_only_the_reference_has_give_it_a_spread_and_are_not_missing() -> None:
    changes = check(run(), [record for record in run() if record.cell["seed"] == 1])
    assert not changed(changes)
    assert find(changes, "digits · em · small", "a accuracy").reference == pytest.approx(0.601)


def test_a_task_that_lost_its_score_is_missing_and_the_rest_is_compared() -> None:
    then = [make_record({"a": 0.9, "b": 0.5})]
    now = [make_record({"a": 0.9, "b": None})]
    found = {(quantity, verdict) for _, quantity, verdict in changed(check(then, now))}
    assert found == {("b accuracy", "missing"), ("b balanced_accuracy", "missing"), ("score", "changed")}


def test_changes_are_a_table() -> None:
    text = render_changes(check(timed(), timed({"b": 100.0})))
    lines = text.splitlines()
    cells = [
        [piece.strip() for piece in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    assert [cells[0], *cells[2:]] == [
        ["item", "what", "reference", "now", "tolerance", "verdict"],
        ["digits · b · small · ew · none · mtl", "train_s", "10.5", "105", "≤ 21.0", "regressed"],
    ]
    assert lines[-2].startswith("1 changed, ")


def test_junit_has_one_case_per_item() -> None:
    name = 'em(a="<&>\x1b")'
    then, now = ([make_record({"a": score}, attack=name)] for score in (0.9, 0.6))
    root = ElementTree.fromstring(render_junit("night<ly>", check(then, now)))
    assert (root.attrib["tests"], root.attrib["failures"]) == ("3", "1")
    (suite,) = root
    assert suite.attrib == {"name": "night<ly>", "tests": "3", "failures": "1"}
    assert [case.attrib["name"] for case in suite] == [
        "digits",
        'digits · em(a="<&> ")',
        'digits · em(a="<&> ") · small · ew · none · mtl',
    ]
    assert [len(case) for case in suite] == [0, 0, 1]
    failure = suite[2][0]
    assert failure.attrib == {"message": "3 numbers changed", "type": "changed"}
    assert failure.text is not None
    assert "a accuracy: 0.90 in the reference, 0.60 now, tolerance ±0.00" in failure.text.splitlines()


def test_junit_of_a_missing_item_says_so() -> None:
    clean, em = make_record({"a": 0.9}, attack="clean"), make_record({"a": 0.6})
    root = ElementTree.fromstring(render_junit("nightly", check([clean, em], [clean])))
    assert [failure.text for failure in root.iter("failure")] == ["item: missing"] * 2
