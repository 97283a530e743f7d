"""The leading attack while a run is under way is the first of the ranking over what is there."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.record import Record
from leaderboard.frame import to_frame
from leaderboard.live_ranking import LiveRanking
from leaderboard.ranking import rank_attacks
from leaderboard.rows import cell_rows
from tests.records import ROOM, fail, make_record, make_room, matrix

LEARNED = {
    "clean": {"none": [0.0, 0.0], "jpeg": [0.0, 0.0]},
    "em": {"none": [0.9, 0.8], "jpeg": [0.1, 0.3]},
    "mtl-ue-em": {"none": [0.6, 0.7], "jpeg": [0.5, 0.4]},
    "tap": {"none": [0.99, 0.99]},
}


def leader(records: Sequence[Record]) -> tuple[str, float, int] | None:
    ranking = LiveRanking()
    for record in records:
        ranking.add(record)
    return ranking.best()


def first(records: Sequence[Record]) -> tuple[str, float, int]:
    """Return the first row of the leaderboard's ranking."""
    frame = to_frame(records)
    row = rank_attacks(frame).iloc[0]
    counted = cell_rows(frame).query("attack == @row.attack and protection.notna()")
    return row["attack"], pytest.approx(row["protection"]), len(counted)


def test_a_cell_is_not_compared_with_a_clean_one_of_other_data() -> None:
    clean, em = (
        replace(make_record({"a": score}, attack=attack), environment={"data": data})
        for attack, score, data in (("clean", 0.9, "a" * 32), ("em", 0.5, "b" * 32))
    )
    assert leader([clean, em]) is None
    assert leader([em, clean]) is None
    assert leader([em, clean, replace(clean, environment=em.environment)]) == ("em", pytest.approx(1.0), 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_leader_is_the_first_of_the_ranking_in_whatever_order_cells_finish(seed: int) -> None:
    records = matrix(LEARNED)
    random.Random(seed).shuffle(records)
    for count in range(1, len(records) + 1, 3):
        found = leader(records[:count])
        if found is not None:
            assert found == first(records[:count])
    assert leader(records) == ("tap", pytest.approx(1.01), 3)
    assert leader([r for r in records if r.cell["attack"] != "tap"]) == ("mtl-ue-em", pytest.approx(0.47), 6)


def test_nobody_leads_without_a_clean_counterpart() -> None:
    assert leader([]) is None
    assert leader([make_record({"a": 0.5}, attack="em")]) is None
    assert (
        leader([make_record({"a": 0.9}, attack="clean"), make_record({"a": 0.5}, attack="em", seed=1)])
        is None
    )
    assert leader([make_record({"a": 0.9}, attack="clean"), fail(attack="em")]) is None


@pytest.mark.parametrize("labels", [{"rate": 0.5}, {"protected": ["a"]}, {"bounded": False}])
def test_partial_and_unbounded_attacks_do_not_lead(labels: dict[str, object]) -> None:
    clean = make_record({"a": 0.9, "b": 0.9}, attack="clean")
    other = make_record({"a": 0.5, "b": 0.5}, attack="cuda", **labels)  # type: ignore[arg-type]
    em = make_record({"a": 0.8, "b": 0.8}, attack="em")
    assert leader([clean, other, em]) == ("em", pytest.approx(0.25), 1)


def test_a_record_that_is_added_twice_counts_once_and_the_last_of_a_cell_counts() -> None:
    clean = make_record({"a": 0.9}, attack="clean")
    old = make_record(
        {"a": 0.6}, attack="em", changes={"finished": "2026-01-01T00:00:00+00:00", "key": "0" * 16}
    )
    new = make_record({"a": 0.7}, attack="em")
    for order in ([clean, old, new, new], [new, old, clean], [clean, new, old]):
        assert leader(order) == ("em", pytest.approx(0.5), 1)


def test_protection_is_that_of_the_tables_whatever_is_undefined() -> None:
    records = [
        make_record({"a": 0.9, "b": 0.51, "c": None}, attack="clean"),
        make_record({"a": 0.6, "b": 0.5, "c": 0.5}),
        make_room(dict.fromkeys(ROOM, 0.8), attack="clean"),
        make_room(dict(zip(ROOM, (0.2, 0.3, -0.1), strict=True))),
    ]
    assert leader(records) == first(records)
    assert leader(records[:2]) == ("em", pytest.approx(0.75), 1), "b is at the floor, c is unknown"


def test_a_defense_that_helps_clean_data_counts_for_those_that_met_it() -> None:
    records = [
        make_record({"a": score}, attack=attack, defense=defense)
        for attack, defense, score in (
            ("clean", "none", 0.7),
            ("clean", "mixup", 0.75),
            ("em", "none", 0.6),
            ("em", "mixup", 0.6),
            ("tap", "none", 0.6),
        )
    ]
    assert leader(records) == first(records) == ("em", pytest.approx(0.6), 2)
