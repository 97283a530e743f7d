"""The worked example of the page on scores, computed by the code."""

from pathlib import Path

import pytest

from bench.record import Record
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_attacks
from leaderboard.sections.defenses import scores_by_defense
from tests.records import make_record, task_info

PAGE = Path(__file__).parents[2] / "docs" / "scores.md"

Row = dict[str, str]


def read_tables() -> list[list[Row]]:
    """Return the page's tables, each as rows: header to text."""
    blocks = [block for block in PAGE.read_text(encoding="utf-8").split("\n\n") if block.startswith("|")]
    tables = []
    for block in blocks:
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        tables.append([dict(zip(head, row, strict=True)) for row in rows])
    return tables


SCORES, SHARES, LEFT, RANKED = read_tables()
DEFENSES = ("none", "jpeg", "grayscale")


def example() -> list[Record]:
    records = []
    for attack in ("clean", "random", "em"):
        rows = [row for row in SCORES if row["attack"] == attack]
        tasks = {row["task"]: task_info(floor=int(row["floor"]) / 100) for row in rows}
        records += [
            make_record(
                {row["task"]: int(row[defense]) / 100 for row in rows},
                tasks=tasks,
                attack=attack,
                defense=defense,
            )
            for defense in DEFENSES
        ]
    return records


def test_every_share_of_the_example() -> None:
    shares = to_frame(example()).set_index(["attack", "task", "defense"])["share"]
    assert len(SHARES) * len(DEFENSES) == len(shares)
    for row in SHARES:
        for defense in DEFENSES:
            assert float(row[defense]) == pytest.approx(shares[row["attack"], row["task"], defense], abs=6e-4)


def test_what_is_left_and_what_is_picked() -> None:
    found = scores_by_defense(to_frame(example()), "digits").set_index(["attack", "defense"])
    for row in LEFT:
        left = {defense: found.loc[(row["attack"], defense), "share"] for defense in DEFENSES}
        assert {defense: float(row[defense]) for defense in DEFENSES} == pytest.approx(left, abs=6e-4)
        assert float(row["U"]) == pytest.approx(max(left.values()))
        assert row["picked"] == max(left, key=lambda defense: left[defense])
    assert found.loc[("em", "jpeg"), "recovery"] == pytest.approx(2 / 3)
    assert found.loc[("em", "grayscale"), "recovery"] == pytest.approx(-0.1833, abs=1e-4)


def test_the_ranking_of_the_example() -> None:
    ranked = rank_attacks(to_frame(example())).to_dict("records")
    assert [row["attack"] for row in ranked] == [*(row["attack"] for row in RANKED), "clean"]
    for row, expected in zip(ranked, RANKED, strict=False):
        assert row["defense"] == expected["defense"]
        for column in ("protection", "undefended"):
            assert row[column] == pytest.approx(float(expected[column]))
