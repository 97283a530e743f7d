"""A comparison on a terminal: its tables fitted to the width, then the verdict."""

from collections.abc import Hashable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from bench.text import to_one_line
from leaderboard.comparison import Comparison, format_difference, format_p_value, format_paired
from leaderboard.formatting import format_count, format_protection, format_score, metric_label
from leaderboard.paired_costs import render_cost_ratios
from leaderboard.terminal_table import Column, fit_table, print_fitted

NAME_LEAST = 8
"""Width to which a name can be broken."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison.

    Args:
        comparison: from `leaderboard.comparison.compare_labels`.
        console: where to print; its width counts.
    """
    a, b = to_one_line(comparison.a), to_one_line(comparison.b)
    blocks: list[RenderableType] = [fit_table(_task_columns(comparison), console.width), ""]
    if len(comparison.parts):
        heading = Text("By part, means over cells, without a choice", "bold")
        blocks += [heading, fit_table(_part_columns(comparison), console.width), ""]
    cells = format_count(comparison.cells, "paired cell")
    lines = [
        f"{cells}; without a counterpart: {comparison.only_a} of {a}, {comparison.only_b} of {b}",
        render_cost_ratios(comparison.costs, a, b),
    ]
    if comparison.overall.p_value is not None:
        lines.append("p: sign-flip test over seeds, corrected for all rows of its table (Holm)")
    if comparison.budgets is not None:
        budgets = ", ".join(
            f"{name}: {budget}" for name, budget in zip((a, b), comparison.budgets, strict=True)
        )
        lines.append(f"Their budgets differ ({budgets}): this comparison is not a ranking.")
    blocks += [Text(line, "dim") for line in lines if line]
    print_fitted(console, *blocks, Text(to_one_line(comparison.verdict), "bold"))


def _task_columns(comparison: Comparison) -> list[Column]:
    rows = comparison.tasks.to_dict("records")
    a, b = comparison.a, comparison.b
    several = comparison.tasks["dataset"].nunique() > 1
    return [
        Column("dataset", [str(row["dataset"]) if several else "" for row in rows], 7, NAME_LEAST),
        Column("task", [str(row["task"]) for row in rows], 10, NAME_LEAST, style="bold"),
        _number_column(a, [format_protection(row["protection_a"]) for row in rows], 8),
        _number_column(b, [format_protection(row["protection_b"]) for row in rows], 8),
        Column(
            "difference", [format_difference(row["protection"], row["low"], row["high"]) for row in rows], 9
        ),
        _number_column("p", [format_p_value(row["adjusted"]) for row in rows], 5),
        _number_column("wins/ties/losses", [_count_outcomes(row) for row in rows], 4),
        Column("metric", [metric_label(row["metric"]) for row in rows], 2),
        _number_column(f"raw {a}", [format_score(row["raw_a"], row["metric"]) for row in rows], 2),
        _number_column(f"raw {b}", [format_score(row["raw_b"], row["metric"]) for row in rows], 2),
    ]


def _part_columns(comparison: Comparison) -> list[Column]:
    rows = comparison.parts.to_dict("records")
    return [
        Column("axis", [str(row["axis"]) for row in rows], 8),
        Column("part", [str(row["value"]) for row in rows], 10, NAME_LEAST, style="bold"),
        Column("difference", [format_paired(row["paired"]) for row in rows], 9),
        _number_column("p", [format_p_value(row["adjusted"]) for row in rows], 5),
        _number_column("wins/ties/losses", [_count_outcomes(vars(row["paired"])) for row in rows], 4),
    ]


def _number_column(head: str, cells: list[str], importance: int) -> Column:
    """Return a column of numbers, whose header can be broken."""
    return Column(head, cells, importance, max(NAME_LEAST, *map(len, cells)), "right")


def _count_outcomes(row: Mapping[Hashable, Any]) -> str:
    return f"{row['wins']}/{row['ties']}/{row['losses']}"
