"""Noise that rounding undoes, and crafting that did not reach its aim, are flagged on the board."""

from leaderboard.board import render_board
from tests.records import make_record

RECORDS = [
    make_record({"a": 0.9}, attack=attack, changes={"noise": noise})
    for attack, noise in {
        "random(lift=average)": {"linf": 2.0, "lost_to_rounding": 0.506},
        "random": {"linf": 8.0, "lost_to_rounding": 0.0625},
        "tap": {"linf": 8.0, "lost_to_rounding": 0.1, "surrogate_loss": 0.04, "hit_rate": 0.99},
        "em": {"linf": 8.0, "lost_to_rounding": 0.1, "surrogate_loss": 0.9, "hit_rate": 0.55},
    }.items()
]


def section(page: str) -> list[str]:
    return page.split("\n## Noise")[1].split("\n## ", maxsplit=1)[0].splitlines()


def test_the_noise_of_an_attack_that_rounding_undoes_or_that_missed_its_aim_is_flagged() -> None:
    lines = section(render_board(RECORDS))
    rows = {
        cells[2].strip(): [cell.strip() for cell in cells[4:7]]
        for line in lines
        if len(cells := line.split("|")) > 7
    }
    assert rows["attack"] == ["lost %", "loss", "hit %"]
    assert rows["random(lift=average)"] == ["**50.6**", "–", "–"]
    assert rows["random"] == ["6.2", "–", "–"]
    assert rows["tap"] == ["10.0", "0.04", "99.0"]
    assert rows["em"] == ["10.0", "0.90", "**55.0**"]
    (flags,) = [line for line in lines if line.startswith("**digits.**")]
    rounding, aim = flags.split(" *hit* is below 90%")
    assert "more than 25%" in rounding
    assert "*random(lift=average)*: " in rounding
    assert "for *em*: " in aim


def test_noise_without_a_fault_has_no_flag() -> None:
    lines = section(render_board(RECORDS[1:3]))
    assert not [line for line in lines if "**" in line]


def test_noise_of_earlier_records_is_shown_as_before() -> None:
    lines = section(render_board([make_record({"a": 0.9})]))
    assert not [line for line in lines if line.startswith("|") and ("lost" in line or "hit" in line)]
