"""A board on a terminal: what a reader must know, then the rankings, fitted to the width."""

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.text import Text

from bench.record import CLEAN
from bench.text import format_duration, to_one_line
from leaderboard.formatting import (
    NO_VALUE,
    RANKING_TITLES,
    TOO_FEW,
    UNFINISHED,
    format_count,
    format_protection,
)
from leaderboard.interval_bars import FIRST, LAST, LINE, Estimate, axis_ends, draw_axis, draw_interval
from leaderboard.scores import TRACKS
from leaderboard.terminal_table import Column, DrawnColumn, fit_table, print_fitted

if TYPE_CHECKING:
    from leaderboard.summary import BoardSummary

Row = Mapping[str, Any]
"""A row of the ranking of a `leaderboard.summary.BoardSummary`."""

LEFT_OUT_LINES = 2
"""How many of the things that are left out are named."""

TITLE, TITLE_WITH_INTERVAL = "protection", "protection, 95 % interval"

_BAR_LEAST, _BAR_MOST = 14, 50


def print_board(summary: "BoardSummary", console: Console, places: Mapping[str, str]) -> None:
    """Print a board.

    Args:
        summary: from `leaderboard.summary.summarize_board`.
        console: where to print; its width counts.
        places: what more there is → where, printed last.
    """
    blocks: list[RenderableType] = [Text(line) for line in _head_lines(summary)]
    for track in reversed(TRACKS):  # the main ranking comes last, next to the prompt
        rows = [row for row in summary["ranking"] if row["track"] == track and row["attack"] != CLEAN]
        if rows:
            groups = summary["unordered"].get(track, [])
            notes = [Text(line, "dim") for line in _order_lines(rows, groups)]
            table = fit_table(_ranking_columns(rows, groups), console.width)
            blocks += ["", Text(RANKING_TITLES[track], "bold"), *notes, table]
    if places:
        size = max(map(len, places)) + 1
        lines = [f"{name + ':':{size}} {to_one_line(place)}" for name, place in places.items()]
        blocks += ["", *(Text(line, no_wrap=True) for line in lines)]
    print_fitted(console, *blocks)


def _head_lines(summary: "BoardSummary") -> list[str]:
    """Return what the board shows, and what is missing on it."""
    lines = ["No cell is finished yet."]
    if summary["done"]:
        suites, seeds = ", ".join(map(to_one_line, summary["suites"])), len(summary["seeds"])
        cells = format_count(summary["done"], "cell")
        lines = [f"{cells} of suite {suites}, {format_count(seeds, 'seed')}, protocol {summary['protocol']}"]
        if any(row["rank"] is not None for row in summary["ranking"]):
            lines.append(
                "Protection under the best defense: 1 if nothing was learned, 0 if the attack had no effect."
            )
        else:
            lines += ["No attack can be ranked.", *summary["notes"]]
    if summary["failed"]:
        lines.append(
            f"{format_count(summary['failed'], 'cell')} failed: the full board has the errors, and the same "
            "`bench run` tries again"
        )
    left_out = summary["left_out"]
    lines += [f"left out: {to_one_line(sentence)}" for sentence in left_out[:LEFT_OUT_LINES]]
    if more := len(left_out) - LEFT_OUT_LINES:
        lines += [f"left out: {more} more, which the full board lists"] if more > 0 else []
    if any(row["unfinished"] for row in summary["ranking"]):
        lines.append(f"{UNFINISHED} crafting may be unfinished (hit in the full board's section on noise)")
    return lines


def _order_lines(rows: Sequence[Row], groups: Sequence[Sequence[str]]) -> list[str]:
    """Return what the intervals and the order of a ranking leave open."""
    ranked = [row for row in rows if row["rank"] is not None]
    with_interval = [row for row in ranked if row["low"] is not None]
    if ranked and not with_interval:
        order = " The order may be chance." if len(ranked) > 1 else ""
        return [f"No intervals: {TOO_FEW}, or not the same ones for all cells.{order}"]
    lines = []
    if len(with_interval) < len(ranked):
        lines.append(f"Without {FIRST}{LINE}{LAST}: {TOO_FEW}, or not the same ones for all cells")
    if _has_letters(groups, rows):
        lines.append("Attacks with a letter in common cannot be ordered with these seeds")
    elif groups:
        lines.append("No two of these attacks can be ordered with these seeds")
    return lines


def _has_letters(groups: Sequence[Sequence[str]], rows: Sequence[Row]) -> bool:
    """Return whether letters say more than a sentence: there are groups, and not one of all attacks."""
    return 0 < len(groups) <= len(string.ascii_lowercase) and len(groups[0]) < sum(
        row["rank"] is not None for row in rows
    )


def _ranking_columns(rows: Sequence[Row], groups: Sequence[Sequence[str]]) -> list[Column | DrawnColumn]:
    letters = dict(zip(string.ascii_lowercase, groups, strict=False)) if _has_letters(groups, rows) else {}
    names = [row["attack"] + (f" {UNFINISHED}" if row["unfinished"] else "") for row in rows]
    shared = ["".join(letter for letter, group in letters.items() if row["attack"] in group) for row in rows]
    ranks = [NO_VALUE if row["rank"] is None else str(row["rank"]) for row in rows]
    undefended = [format_protection(row["undefended"]) for row in rows]
    defenses = [row["defense"] or NO_VALUE for row in rows]
    return [
        Column("#", ranks, 9, justify="right"),
        Column("attack", names, 10, least=12, style="bold"),
        Column("", shared, 3),
        _protection_column(rows),
        Column("interval", [_format_interval(row) for row in rows], 1),
        Column("without\na defense", undefended, 5, justify="right"),
        Column("defense\npicked", defenses, 4, least=8),
        Column("craft\ntime", [_format_craft_time(row) for row in rows], 2, justify="right"),
    ]


def _protection_column(rows: Sequence[Row]) -> DrawnColumn:
    """Return the column of protections as numbers and bars."""
    estimates = [Estimate(row["protection"], row["low"], row["high"]) for row in rows]
    ends = axis_ends(estimates)
    numbers = [format_protection(row["protection"]) for row in rows]
    size = max(map(len, numbers)) + 1
    with_interval = TITLE_WITH_INTERVAL if any(row["low"] is not None for row in rows) else TITLE

    def draw(width: int) -> tuple[str, list[str]]:
        title = with_interval if width >= len(with_interval) else TITLE
        bars = [draw_interval(estimate, ends, width - size) for estimate in estimates]
        lines = [f"{number:>{size - 1}} {bar}" for number, bar in zip(numbers, bars, strict=True)]
        return f"{title}\n{' ' * size}{draw_axis(ends, width - size)}", lines

    return DrawnColumn(draw, importance=8, least=size + _BAR_LEAST, most=size + _BAR_MOST, style="cyan")


def _format_interval(row: Row) -> str:
    return NO_VALUE if row["low"] is None else f"[{row['low']:z.2f}, {row['high']:z.2f}]"


def _format_craft_time(row: Row) -> str:
    """Return the time for one poison and its surrogates."""
    if row["craft_s"] is None:
        return NO_VALUE
    return format_duration(row["craft_s"] + (row["surrogate_s"] or 0.0))
