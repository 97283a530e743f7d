"""Attacks at several budgets: protection by budget, by passes through networks, and by seconds."""

from dataclasses import replace

from pandas import DataFrame, Series, concat

from bench.catalog.choice import Choice
from bench.errors import BenchError
from bench.record import CLEAN
from leaderboard.formatting import (
    cross_table,
    format_number,
    format_protection,
    join_blocks,
    markdown_table,
    with_protection,
)
from leaderboard.ranking import rank_attacks
from leaderboard.scores import Track

BUDGETS: dict[Track, str] = {"linf": "{:g}/255", "l2": "ℓ2 {:g}"}
"""Track with a budget → how a budget is shown."""


def without_budget(attack: str) -> str:
    """Return an attack's label without a budget of its own, which is that of its track then."""
    try:
        choice = Choice.parse(attack)
    except BenchError:  # a label that somebody has written into a record
        return attack
    params = tuple(item for item in choice.params if item[0] != "epsilon")
    return replace(choice, params=params).label


def rows_at_track_budgets(frame: DataFrame) -> DataFrame:
    """Return the rows of the attacks that can be ranked together: at one budget in every track.

    It is that of the attacks whose label names none, the track's default budget. If all name one, it is that
    of most attacks; the largest of a tie.
    """
    is_left_out = Series(False, index=frame.index)
    for track in BUDGETS:
        rows = frame[(frame["track"] == track) & (frame["attack"] != CLEAN)]
        attacks = rows.drop_duplicates("attack")
        default = attacks[attacks["attack"].map(without_budget) == attacks["attack"]]
        counts = (default if len(default) else attacks)["epsilon"].value_counts()
        if len(counts) and rows["epsilon"].nunique() > 1:
            budget = max(counts.index, key=lambda epsilon: (counts[epsilon], epsilon))
            is_left_out |= frame.index.isin(rows.index[rows["epsilon"] != budget])
    return frame[~is_left_out]


def attacks_with_costs(frame: DataFrame) -> DataFrame:
    """Return protection and costs of all attacks with a budget.

    Returns:
        One row per attack, in the order of the rankings: ``track``, ``attack``, ``epsilon``, ``protection``
        and ``undefended`` as in the ranking, ``craft_passes`` (forward and backward passes per image through
        networks), ``surrogate_passes`` (the same for the training of surrogates) and ``seconds`` (of crafting
        and surrogates), means over poisons.
    """
    columns = ["track", "attack", "epsilon", "protection", "undefended", *_COSTS]
    tables = []
    for track in BUDGETS:
        rows = frame[(frame["track"] == track) & (frame["attack"] != CLEAN) & ~frame["partial"]]
        if len(rows):
            ranked = rank_attacks(frame, track)[["attack", "protection", "undefended"]]
            tables.append(ranked.merge(poison_costs(rows), on="attack").assign(track=track)[columns])
    return concat(tables, ignore_index=True) if tables else DataFrame(columns=columns)


_COSTS = ("craft_passes", "surrogate_passes", "seconds")


def poison_costs(rows: DataFrame) -> DataFrame:
    """Return the costs of `attacks_with_costs` and the budget, by attack, means over its poisons."""
    poisons = rows.drop_duplicates("poison")
    costs = DataFrame(
        {
            "attack": poisons["attack"],
            "epsilon": poisons["epsilon"],
            "craft_passes": poisons["forward_passes"] + poisons["backward_passes"],
            "surrogate_passes": poisons["surrogate_passes"],
            "seconds": poisons["craft_s"] + poisons["surrogate_s"].fillna(0),
        }
    )
    return costs.groupby("attack", as_index=False).mean()


def budget_table(frame: DataFrame) -> DataFrame:
    """Return the attacks that were run at several budgets, by budget.

    Returns:
        The columns of `attacks_with_costs`; ``attack`` does not have the budget in its label.
    """
    table = attacks_with_costs(frame[frame["attack"].isin([CLEAN, *_attacks_at_several_budgets(frame)])])
    table["attack"] = table["attack"].map(without_budget)
    several = table.groupby(["track", "attack"])["epsilon"].transform("nunique") > 1
    return table[several].sort_values("epsilon", kind="stable", ignore_index=True)


def _attacks_at_several_budgets(frame: DataFrame) -> "Series[str]":
    """Return the labels of attacks that were run at several budgets: only these have to be ranked."""
    attacks = frame[frame["attack"] != CLEAN].drop_duplicates(["track", "attack"])
    budgets = attacks.groupby(["track", attacks["attack"].map(without_budget)])["epsilon"]
    return attacks.loc[budgets.transform("nunique") > 1, "attack"]


def render_budgets(frame: DataFrame) -> str:
    """Return the section on budgets in markdown, empty if no attack was run at several."""
    table = budget_table(frame)
    if not len(table):
        return ""
    by_budget = [_render_track(table[table["track"] == track], budget) for track, budget in BUDGETS.items()]
    legend = (
        "Protection as in the ranking, in parentheses without a defense. A budget limits the change of every "
        "pixel value, in steps of 1/255, or the ℓ2 norm of an image's change per 3·32·32 values, pixels in "
        "[0, 1]. The other sections have every attack at the budget of its track."
    )
    costs = [
        {
            "attack": row["attack"],
            "protection": format_protection(row["protection"]),
            "craft passes": format_number(row["craft_passes"]),
            "surrogate passes": format_number(row["surrogate_passes"]),
            "s": format_number(row["seconds"]),
        }
        for _, row in attacks_with_costs(rows_at_track_budgets(frame)).iterrows()
    ]
    costs_legend = (
        "At the budget of the track. Passes are how often a training image went through a network, forward "
        "or backward: while the noise was crafted, and to train the surrogates. Seconds are of both; a "
        "surrogate that several attacks share counts for each of them."
    )
    tables = (*filter(None, by_budget), legend, markdown_table(costs), costs_legend)
    return join_blocks("## Budgets", *tables)


def _render_track(rows: DataFrame, budget: str) -> str:
    cells = {
        (str(row["attack"]), budget.format(row["epsilon"])): with_protection(
            format_protection(row["protection"]), row["undefended"]
        )
        for _, row in rows.iterrows()
    }
    return cross_table(cells, columns="budget") if cells else ""
