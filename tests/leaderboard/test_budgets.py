"""Attacks at several budgets: never ranked as if they were equal, shown in a section of their own."""

from typing import Any

import pytest

from bench.record import Record
from leaderboard.board import render_board
from leaderboard.figures.budgets import draw_budgets
from leaderboard.figures.figure_data import collect_figure_data
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_attacks
from leaderboard.sections.budgets import (
    attacks_with_costs,
    budget_table,
    render_budgets,
    rows_at_track_budgets,
    without_budget,
)
from tests.records import cost, make_record


def result(attack: str, score: float, epsilon: float = 8, norm: str = "linf", **labels: Any) -> Record:
    """Return a record of one task with a floor of 0.5."""
    passes = {"forward_passes": 4.0, "backward_passes": 3.0, "surrogate_passes": 2 * epsilon}
    return make_record(
        {"a": score},
        attack=attack,
        settings={"epsilon": epsilon, "norm": norm},
        costs={"craft": cost(5.0), "surrogate": cost(10.0)},
        changes={"noise": passes},
        **labels,
    )


CLEAN = result("clean", 0.9)
SEVERAL = [
    CLEAN,
    result("em(epsilon=4)", 0.8, 4),
    result("em", 0.7),
    result("em(epsilon=16)", 0.5, 16),
    result("tap", 0.6),
    result("ar-l2(epsilon=0.5)", 0.8, 0.5, "l2"),
    result("ar-l2", 0.5, 1.0, "l2"),
]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("em", "em"),
        ("em(epsilon=4)", "em"),
        ("em(epsilon=4, rounds=2)", "em(rounds=2)"),
        ('em(epsilon=4, tasks=["a, b"])', 'em(tasks=["a, b"])'),
        ("what (nobody wrote", "what (nobody wrote"),
    ],
)
def test_a_label_without_its_budget(label: str, wanted: str) -> None:
    assert without_budget(label) == wanted


EM_2, EM_4, EM_16 = (result(f"em(epsilon={epsilon})", 0.8, epsilon) for epsilon in (2, 4, 16))
TAP_4 = result("tap(epsilon=4)", 0.7, 4)


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        (SEVERAL, {"clean", "em", "tap", "ar-l2"}),
        ([CLEAN, EM_4, TAP_4, EM_16], {"clean", "em(epsilon=4)", "tap(epsilon=4)"}),  # that of most attacks
        ([CLEAN, EM_4, EM_2], {"clean", "em(epsilon=4)"}),  # of several the largest
        ([CLEAN, EM_4], {"clean", "em(epsilon=4)"}),
        ([CLEAN], {"clean"}),
    ],
)
def test_attacks_of_one_track_that_are_ranked_have_one_budget(records: list[Record], kept: set[str]) -> None:
    assert set(rows_at_track_budgets(to_frame(records))["attack"]) == kept


def test_an_attack_at_another_budget_does_not_enter_the_ranking() -> None:
    ranked = rank_attacks(rows_at_track_budgets(to_frame(SEVERAL)))
    assert list(ranked["attack"]) == ["tap", "em", "clean"]
    board = render_board(SEVERAL)
    ranking = board.partition("## Ranking")[2].partition("\n## Budgets")[0]
    assert "em(epsilon" not in ranking
    assert "ar-l2" in ranking


def test_protection_by_budget_and_by_cost() -> None:
    frame = to_frame(SEVERAL)
    table = budget_table(frame)
    assert [*zip(table["attack"], table["epsilon"], strict=True)] == [
        ("ar-l2", 0.5),
        ("ar-l2", 1.0),
        ("em", 4.0),
        ("em", 8.0),
        ("em", 16.0),
    ]
    assert table["protection"].to_list() == pytest.approx([0.25, 1.0, 0.25, 0.5, 1.0])
    costs = attacks_with_costs(rows_at_track_budgets(frame)).set_index("attack")
    assert list(costs.index.drop("clean", errors="ignore")) == ["tap", "em", "ar-l2"]
    assert costs.loc["em", ["craft_passes", "surrogate_passes", "seconds"]].to_list() == [7.0, 16.0, 15.0]


def test_the_section_has_a_table_per_norm_and_the_costs() -> None:
    section = render_budgets(to_frame(SEVERAL))
    for text in ("4/255", "16/255", "ℓ2 0.5", "surrogate passes", "0.25 (0.25)"):
        assert text in section
    assert section.index("4/255") < section.index("8/255") < section.index("16/255")


def test_without_several_budgets_there_is_no_section_and_no_figure() -> None:
    records = [CLEAN, result("em", 0.7), result("ar-l2", 0.6, 1.0, "l2")]
    assert render_budgets(to_frame(records)) == ""
    assert draw_budgets(collect_figure_data(records, None, 9.0)) is None


def test_the_figure_has_a_panel_per_norm_and_per_cost() -> None:
    figure = draw_budgets(collect_figure_data(SEVERAL, None, 9.0))
    assert figure is not None
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["ℓ∞ budget, /255", "ℓ2 budget, per 3·32·32", "passes per image", "seconds"]
    assert len(figure.axes[0].get_lines()) == 1
    assert len(figure.axes[2].get_lines()) == 3
