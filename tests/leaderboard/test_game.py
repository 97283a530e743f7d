"""The game between an attack and an exploiter, worked out by hand: what is picked, and what is left."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bench.record import Record
from leaderboard.board import render_board
from leaderboard.cell_protection import protection_by_task
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_attacks
from leaderboard.seeds import varied_draws
from tests.records import make_record, matrix


def victims(skills: Mapping[str, Mapping[str, float]], **labels: Any) -> list[Record]:
    """Return records of attack, then defense, then skill of task ``a``, whose floor is 0.5."""
    return [
        make_record({"a": 0.5 + skill / 2}, attack=attack, defense=defense, **labels)
        for attack, by_defense in skills.items()
        for defense, skill in by_defense.items()
    ]


def ranked(records: list[Record]) -> dict[str, dict[str, Any]]:
    table = rank_attacks(to_frame(records)).to_dict("records")
    return {str(row["attack"]): {str(name): value for name, value in row.items()} for row in table}


CLEAN = {"none": 0.8, "jpeg": 0.6, "ruin": 0.04}


def test_a_defense_that_breaks_the_victim_is_never_picked() -> None:
    found = ranked(
        victims(
            {"clean": CLEAN, "em": {"none": 0.2, "jpeg": 0.4, "ruin": 0.02}, "noise": {**CLEAN, "ruin": 0.06}}
        )
    )
    assert (found["em"]["protection"], found["em"]["defense"]) == (pytest.approx(0.5), "jpeg")
    assert found["em"]["undefended"] == pytest.approx(0.75)
    # The clean victim under ruin has 0.04: the quotient of protocol 1 was -0.5 here.
    assert (found["noise"]["protection"], found["noise"]["defense"]) == (pytest.approx(0.0), "none")


def test_a_defense_that_helps_clean_data_helps_the_reference() -> None:
    found = ranked(victims({"clean": {"none": 0.4, "mixup": 0.5}, "em": {"none": 0.2, "mixup": 0.3}}))
    assert found["em"]["protection"] == pytest.approx(1 - 0.3 / 0.5)
    assert found["clean"]["protection"] == 0.0
    # An attack that was not run with it is compared with what it met.
    alone = ranked(victims({"clean": {"none": 0.4, "mixup": 0.5}, "em": {"none": 0.2}}))
    assert alone["em"]["protection"] == pytest.approx(0.5)


def test_a_misled_victim_is_above_1() -> None:
    assert ranked(victims({"clean": {"none": 0.8}, "em": {"none": -0.2}}))["em"][
        "protection"
    ] == pytest.approx(1.25)


def test_the_mean_over_seeds_comes_before_the_choice() -> None:
    records = [
        *victims({"clean": {"none": 0.8, "jpeg": 0.8}, "em": {"none": 0.1, "jpeg": 0.3}}, seed=0),
        *victims({"clean": {"none": 0.8, "jpeg": 0.8}, "em": {"none": 0.5, "jpeg": 0.1}}, seed=1),
    ]
    # Means of 0.3 and 0.2; seed by seed the exploiter would have 0.3 and 0.5.
    assert ranked(records)["em"]["protection"] == pytest.approx(1 - 0.3 / 0.8)


def test_one_denominator_for_all_seeds() -> None:
    records = [
        *victims({"clean": {"none": 0.8}, "em": {"none": 0.4}}, seed=0),
        *victims({"clean": {"none": 0.7}, "em": {"none": 0.2}}, seed=1),
    ]
    assert ranked(records)["em"]["protection"] == pytest.approx(1 - 0.3 / 0.75)


def test_several_settings_are_averaged_and_each_has_its_own_choice() -> None:
    records = [
        *victims({"clean": {"none": 0.8, "jpeg": 0.8}, "em": {"none": 0.4, "jpeg": 0.2}}),
        *victims({"clean": {"none": 0.4, "jpeg": 0.4}, "em": {"none": 0.1, "jpeg": 0.2}}, backbone="large"),
        *victims({"clean": {"none": 0.4, "jpeg": 0.4}, "em": {"none": 0.1, "jpeg": 0.3}}, weighting="uw"),
    ]
    found = ranked(records)["em"]
    assert found["protection"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert found["defense"] == "jpeg", "picked twice"


def test_without_the_clean_victim_that_has_no_defense_nothing_is_defined() -> None:
    records = victims({"clean": {"jpeg": 0.8}, "em": {"none": 0.4, "jpeg": 0.2}})
    row = ranked(records)["em"]
    assert np.isnan(row["protection"])
    assert row["unpaired"] == 2
    assert "nan" not in render_board(records).lower()


def test_an_attack_that_was_run_under_a_defense_only_is_compared_with_none_too() -> None:
    records = victims({"clean": {"none": 0.8, "jpeg": 0.6}, "em": {"jpeg": 0.2}})
    row = ranked(records)["em"]
    assert row["protection"] == pytest.approx(0.75)
    assert np.isnan(row["undefended"])


def test_a_task_that_only_some_seeds_learn_is_undefined() -> None:
    def seed(number: int, clean: float) -> list[Record]:
        return [
            make_record({"a": 0.9, "b": 0.5 + clean / 2}, attack="clean", seed=number),
            make_record({"a": 0.7, "b": 0.5}, seed=number),
        ]

    unsure, sure = [*seed(0, 0.3), *seed(1, 0.0)], [*seed(0, 0.3), *seed(1, 0.28)]
    assert ranked(unsure)["em"]["protection"] == pytest.approx(0.5)
    assert ranked(unsure)["em"]["undefined"] == 2
    assert ranked(sure)["em"]["protection"] == pytest.approx(0.75)


def transfer_records(seeds: int = 1) -> list[Record]:
    """A surrogate ``small`` that no attack but em needs to know, and two other backbones."""
    skills = {
        "small": {"clean": CLEAN, "em": {"none": 0.0, "jpeg": 0.1, "ruin": 0.0}},
        "large": {"clean": {"none": 0.8, "jpeg": 0.7}, "em": {"none": 0.3, "jpeg": 0.2}},
        "plain": {"clean": {"none": 0.6, "jpeg": 0.5}, "em": {"none": 0.2, "jpeg": 0.4}},
    }
    return [
        record
        for backbone, by_attack in skills.items()
        for seed in range(seeds)
        for record in victims(
            by_attack,
            backbone=backbone,
            seed=seed,
            settings={"surrogate": {"backbone": {"name": "small"}}, "backbone": {"name": backbone}},
        )
    ]


def test_transfer_lets_the_exploiter_pick_an_unlike_backbone() -> None:
    found = ranked(transfer_records())["em"]
    # Shares of what the clean large victim learned, the best of the two: 0.4 / 0.8 with plain and jpeg.
    assert found["transfer"] == pytest.approx(0.5)
    assert found["transfer_choice"] == "plain, jpeg"
    assert found["protection"] == pytest.approx((1 - 0.1 / 0.8 + 1 - 0.3 / 0.8 + 1 - 0.4 / 0.6) / 3)
    three = rank_attacks(to_frame(transfer_records(seeds=3))).iloc[0]
    assert three["transfer"] == pytest.approx(0.5)
    alike = [record for record in transfer_records() if record.cell["backbone"] == "small"]
    assert np.isnan(ranked(alike)["em"]["transfer"])
    assert "transfer" not in render_board(alike).lower()


def test_every_track_has_its_own_ranking() -> None:
    records = matrix({"clean": {"none": (0.0,)}, "em": {"none": (0.5,)}})
    records += matrix({"ar-l2": {"none": (0.4,)}}, settings={"norm": "l2"})
    frame, page = to_frame(records), render_board(records)
    assert list(rank_attacks(frame)["attack"]) == ["em", "clean"]
    assert list(rank_attacks(frame, "l2")["attack"]) == ["ar-l2", "clean"]
    assert "## Ranking, l2 track" in page
    assert "ar-l2 ‡" in page.split("every task")[1]


def test_crafting_that_is_not_finished_is_marked() -> None:
    records = victims({"clean": {"none": 0.8}, "tap": {"none": 0.4}})
    records += [make_record({"a": 0.7}, changes={"noise": {"linf": 8.0, "hit_rate": 0.5}})]
    page = render_board(records).split("## Ranking")[1].split("\n## ")[0]
    assert "| em °" in page
    assert "| tap " in page
    assert "°" not in render_board(records[:2])


def test_too_few_seeds_have_no_interval() -> None:
    one = render_board(victims({"clean": {"none": 0.8}, "em": {"none": 0.4}}))
    assert "| too few seeds" in one
    assert "With one seed there is no interval" in one


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["poison", "victim"]),
        ({"poison_seed": 0}, ["victim"]),
        ({"dataset": {"params": {"data_seed": 0}}}, ["images", "poison", "victim"]),
    ],
)
def test_what_the_seeds_drew_anew(settings: dict[str, Any], expected: list[str]) -> None:
    records = []
    for seed in range(2):
        own = {"dataset": {"params": {"data_seed": seed}}} if "dataset" in settings else {}
        records += [make_record({"a": 0.9}, seed=seed, settings=settings | own)]
    assert varied_draws(records) == expected
    assert varied_draws(records[:1]) == []


def test_records_of_an_earlier_protocol_are_shown_and_said_to_be() -> None:
    earlier = [
        make_record({"a": score}, attack=attack, changes={"protocol": 1})
        for attack, score in (("clean", 0.9), ("em", 0.7))
    ]
    page = render_board(earlier)
    assert "follow the rules of protocol 1" in page
    assert "0.50" in page
    assert "follow the rules" not in render_board(victims({"clean": CLEAN}))


def test_one_cell_has_the_protection_of_the_tables() -> None:
    records = victims({"clean": {"none": 0.4, "mixup": 0.5}, "em": {"none": 0.2, "mixup": 0.3}})
    em = next(record for record in records if record.cell["attack"] == "em")
    earlier = make_record({"a": 0.5}, attack="clean", changes={"protocol": 1, "key": "f" * 16}, seed=1)
    assert protection_by_task(em, [*records, earlier]) == {"a": pytest.approx(1 - 0.2 / 0.5)}
    assert protection_by_task(em, []) == {}
