"""The tables of the ranking, one per track."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, isna

from bench.record import CLEAN
from leaderboard.formatting import (
    NO_VALUE,
    RANKING_TITLES,
    TOO_FEW,
    UNFINISHED,
    format_protection,
    format_score,
    is_missing,
    join_blocks,
    markdown_table,
    metric_label,
    metric_order,
)
from leaderboard.ranking import RAW, TRACK_MARKS
from leaderboard.scores import Track
from leaderboard.sections.noise import MIN_HIT_RATE

LEGENDS: dict[Track, str] = {
    "linf": "",
    "l2": "The budget of these attacks is the l2 norm of the change of an image.",
    "unbounded": "Attacks without a budget: their changes may be visible.",
}
"""Track → what sets its attacks apart."""


def render_rankings(rankings: Mapping[Track, DataFrame], unfinished: Collection[str]) -> str:
    """Return the rankings in markdown, empty if there is nothing to rank.

    Args:
        rankings: from `leaderboard.ranking.rank_tracks`.
        unfinished: attacks whose crafting may be unfinished.
    """
    blocks: list[str] = []
    for track, ranked in rankings.items():
        legend = " ".join(filter(None, (LEGENDS[track], "" if blocks else _explain_columns(ranked))))
        if TRACK_MARKS[track]:
            legend += f" {TRACK_MARKS[track].strip()} marks them in the tables that show several tracks."
        if shown := set(unfinished) & set(ranked["attack"]):
            legend += _explain_unfinished(len(shown))
        table = _ranking_table(ranked, lambda name: f"{name} {UNFINISHED}" if name in unfinished else name)
        blocks.append(join_blocks(f"## {RANKING_TITLES[track]}", table, legend.strip()))
    return join_blocks(*blocks)


def _explain_columns(ranked: DataFrame) -> str:
    transfer = (
        " *Transfer* is the protection if the exploiter picks the backbone, too, among those that the "
        "surrogate does not share."
        if ranked["transfer"].notna().any()
        else ""
    )
    too_few = (
        f" *{TOO_FEW.capitalize()}*: fewer than an interval needs, or not the same ones for all cells."
        if ranked.loc[ranked["rank"].notna(), "low"].isna().any()
        else ""
    )
    return (
        "The exploiter picks the *defense* that leaves most, in every setting; the one picked most often is "
        "shown. The interval is over seeds, and its resamples repeat the choice. *Undefended* is the "
        f"protection without a defense.{transfer}{too_few} Raw scores are without a defense if that was "
        "run: a better protected task has a lower score, but a higher error or angle."
    )


def _explain_unfinished(count: int) -> str:
    attacks = "this attack" if count == 1 else "these attacks"
    return (
        f" {UNFINISHED} The crafting of {attacks} may be unfinished: on its own surrogate less than "
        f"{MIN_HIT_RATE:.0%} of the labels are as intended (*hit* in the section on noise)."
    )


def _ranking_table(ranked: DataFrame, mark: Callable[[str], str]) -> str:
    names = [str(column) for column in ranked if str(column).startswith(RAW)]
    metrics = sorted((name.removeprefix(RAW) for name in names), key=metric_order)
    rows = [_ranking_row(row, metrics, mark) for row in ranked.to_dict("records")]
    return markdown_table(rows)


def _ranking_row(
    row: Mapping[Hashable, Any], metrics: Sequence[str], mark: Callable[[str], str]
) -> dict[str, str]:
    is_clean = row["attack"] == CLEAN
    return {
        "#": NO_VALUE if isna(row["rank"]) else str(row["rank"]),
        "attack": mark(row["attack"]),
        "protection": format_protection(row["protection"]),
        "95 % interval": NO_VALUE if isna(row["rank"]) else _format_ends(row["low"], row["high"]),
        "defense": NO_VALUE if is_clean or isna(row["defense"]) else row["defense"],
        "undefended": format_protection(row["undefended"]),
        "transfer": NO_VALUE if is_clean else _format_transfer(row),
        **{metric_label(metric): format_score(row[f"{RAW}{metric}"], metric) for metric in metrics},
    }


def _format_ends(low: float, high: float) -> str:
    return TOO_FEW if is_missing(low) else f"[{low:z.2f}, {high:z.2f}]"


def _format_transfer(row: Mapping[Hashable, Any]) -> str:
    if is_missing(row["transfer"]):
        return NO_VALUE
    low, high = row["transfer_low"], row["transfer_high"]
    interval = "" if is_missing(low) else f" {_format_ends(low, high)}"
    return f"{format_protection(row['transfer'])}{interval} ({row['transfer_choice']})"
