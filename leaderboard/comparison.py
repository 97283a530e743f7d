"""Comparison of two labels of an axis, over the cells that are equal in all other axes."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame, Series

from bench.errors import BenchError, unknown_name_error
from bench.record import AXES, CLEAN
from leaderboard.formatting import (
    escape_markdown,
    format_count,
    format_protection,
    format_score,
    format_with_spec,
    is_missing,
    join_blocks,
    markdown_table,
    metric_label,
)
from leaderboard.frame import list_rows
from leaderboard.paired_costs import compare_costs, render_cost_ratios
from leaderboard.paired_games import compare_games
from leaderboard.rows import full_protection_rows
from leaderboard.statistics import (
    TIE,
    Interval,
    PairedDifferences,
    adjust_by_holm,
    compare_pairs,
    mean_over_seeds,
)

SIGNIFICANCE = 0.05
"""A difference with a larger p-value is not clear."""


@dataclass(frozen=True)
class Comparison:
    """Differences A - B over paired cells.

    Attributes:
        axis: the axis that differs.
        a: its label on one side; ``b`` on the other.
        overall: difference of the headlines: of the protections, means over the tasks defined on both sides,
            that the exploiter's choice of a defense leaves. Wins, ties and losses are counted over cells.
        parts: the same without a choice for the values of the other axes that vary: ``axis``, ``value``,
            ``paired`` (`PairedDifferences`) and ``adjusted`` (p-values for all rows together, by Holm).
        costs: from `leaderboard.paired_costs.compare_costs`.
        tasks: one row per dataset and task: ``dataset``, ``task``, ``metric`` (the headline), ``raw_a``,
            ``raw_b``, ``raw`` (A - B, mean over seeds); ``protection_a``, ``protection_b``, ``protection``
            (A - B, mean over seeds), ``low``, ``high`` (95 % interval, NaN with too few seeds), ``wins``,
            ``ties``, ``losses``, ``paired`` (`PairedDifferences`), ``adjusted`` (as in ``parts``).
        cells: number of pairs of cells; ``only_a`` and ``only_b`` are the numbers of cells without a
            counterpart.
        budgets: what the budgets of two attacks are, if they differ.
    """

    axis: str
    a: str
    b: str
    overall: PairedDifferences
    parts: DataFrame
    costs: DataFrame
    tasks: DataFrame
    cells: int
    only_a: int
    only_b: int
    budgets: tuple[str, str] | None

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        overall, mean, interval = self.overall, self.overall.mean, self.overall.interval
        if mean is None:
            return (
                f"{self.a} and {self.b} cannot be compared: no task of their paired cells is defined in both."
            )
        seeds = format_count(overall.seeds, "seed")
        over = f"over {format_count(overall.pairs, 'paired cell')}, {seeds}"
        if interval is None:
            why = "not all cells have the same seeds" if overall.seeds > 2 else f"{seeds}: too few"
            return (
                f"Protection under {self.a} minus that under {self.b} is {mean:z.2f} over "
                f"{format_count(overall.pairs, 'paired cell')}, without an interval ({why}): "
                f"whether they differ cannot be resolved."
            )
        if max(abs(interval.low), abs(interval.high)) <= TIE:
            return f"{self.a} and {self.b} protect equally well {over}."
        if interval.includes_zero:
            return (
                f"No clear difference between {self.a} and {self.b}: protection differs by {mean:z.2f} "
                f"[{interval.low:z.2f}, {interval.high:z.2f}] {over}, and the interval includes 0."
            )
        return f"{self._order(mean, interval)} {over}{self._caveat()}."

    def _order(self, mean: float, interval: Interval) -> str:
        winner, loser = (self.a, self.b) if mean > 0 else (self.b, self.a)
        low, high = sorted((abs(interval.low), abs(interval.high)))
        size = f"{abs(mean):.2f} [{low:.2f}, {high:.2f}]"
        if self.axis == "attack":
            return f"{winner} protects more than {loser} by {size}"
        return f"Protection is higher under {winner} than under {loser} by {size}"

    def _caveat(self) -> str:
        """Return what an interval that excludes 0 leaves open."""
        p_value, seeds = self.overall.p_value, self.overall.seeds
        if p_value is None or p_value <= SIGNIFICANCE:
            return ""
        smallest = 2 / 2**seeds
        if smallest > SIGNIFICANCE:
            return (
                "; the interval takes the noise for normal, and without that the order cannot be resolved "
                f"with {format_count(seeds, 'seed')} (no sign-flip test can have p below {smallest:.2g})"
            )
        return f"; the sign-flip test does not confirm it (p = {p_value:.2g})"


def compare_labels(frame: DataFrame, a: str, b: str, axis: str = "attack") -> Comparison:
    """Compare two labels of an axis over the cells that are equal in all other axes.

    On every axis except the attack, clean cells (whose protection is 0 on both sides) and attacks on some of
    the images or tasks only are left out.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        a: label of one side, as in the records, such as ``em`` or ``jpeg(quality=30)``.
        b: label of the other side.
        axis: the axis of both labels.

    Raises:
        BenchError: if the axis or a label is unknown, both labels are equal, or no cells are paired.
    """
    _check_arguments(frame, a, b, axis)
    if axis != "attack":
        frame = full_protection_rows(frame)
        frame = frame[frame["attack"] != CLEAN]
    others = [other for other in AXES if other != axis]
    columns = ["key", "position", "headline", "raw", "protection"]
    sides = [frame.loc[frame[axis] == label, [*others, "task", *columns]] for label in (a, b)]
    pairs = sides[0].merge(sides[1], on=[*others, "task"], suffixes=("_a", "_b"))
    if not len(pairs):
        cell = "cell" if axis == "attack" else "attacked cell"
        raise BenchError(
            f"no {cell} with {axis} {a!r} has a counterpart with {axis} {b!r} that is equal in all other axes"
        )
    if axis == "dataset":
        pairs["dataset"] = f"{a}, {b}"
    pairs["difference"] = pairs["protection_a"] - pairs["protection_b"]
    pairs["raw_difference"] = pairs["raw_a"] - pairs["raw_b"]
    cells = _cell_pairs(pairs, others)
    games = [other for other in others if other not in ("defense", "seed")]
    return Comparison(
        axis=axis,
        a=a,
        b=b,
        overall=compare_games(cells, games, ["defense"] if axis != "defense" else []),
        parts=_compare_parts(cells, [other for other in others if other not in ("attack", "seed")]),
        costs=compare_costs(frame, axis, cells),
        tasks=_compare_tasks(pairs),
        cells=len(cells),
        only_a=sides[0]["key"].nunique() - pairs["key_a"].nunique(),
        only_b=sides[1]["key"].nunique() - pairs["key_b"].nunique(),
        budgets=_different_budgets(frame, a, b) if axis == "attack" else None,
    )


def _check_arguments(frame: DataFrame, a: str, b: str, axis: str) -> None:
    if axis not in AXES:
        raise unknown_name_error("axis", axis, set(AXES) - {"seed"})
    if axis == "seed":
        raise BenchError("seeds cannot be compared with each other: a comparison is repeated over them")
    if a == b:
        raise BenchError(f"both sides of the comparison are {axis} {a!r}; give two different ones")
    for label in (a, b):
        if label not in set(frame[axis]):
            raise unknown_name_error(f"{axis} in these results:", label, set(frame[axis]))


def _cell_pairs(pairs: DataFrame, others: list[str]) -> DataFrame:
    """Return a row per pair of cells: means over the tasks that are defined on both sides."""
    values = ["protection_a", "protection_b", "difference"]
    defined = pairs[values].where(pairs["difference"].notna())
    rows = pairs[["key_a", "key_b", *others]].join(defined)
    by_cell = rows.groupby("key_a", sort=False)
    return by_cell[["key_b", *others]].first().join(by_cell[values].mean()).reset_index()


def _compare_parts(cells: DataFrame, axes: list[str]) -> DataFrame:
    rows = [
        {"axis": axis, "value": value, "paired": compare_pairs(group["difference"], group["seed"])}
        for axis in axes
        if cells[axis].nunique() > 1
        for value, group in cells.groupby(axis)
    ]
    return _adjust_p_values(DataFrame(rows, columns=["axis", "value", "paired"]))


def _adjust_p_values(table: DataFrame) -> DataFrame:
    adjusted = adjust_by_holm([paired.p_value for paired in table["paired"]])
    return table.assign(adjusted=Series(adjusted, index=table.index, dtype=float))


def _different_budgets(frame: DataFrame, a: str, b: str) -> tuple[str, str] | None:
    """Return the budgets of two attacks in words; None if they are equal, or if one attack is clean."""
    side_a, side_b = (_describe_budget(frame[frame["attack"] == label]) for label in (a, b))
    return None if side_a == side_b or CLEAN in (a, b) else (side_a, side_b)


def _describe_budget(rows: DataFrame) -> str:
    units = {"linf": "{:g}/255", "l2": "l2 norm {:g}", "unbounded": "no budget"}
    budgets = rows[["track", "epsilon"]].drop_duplicates().itertuples(index=False)
    return " and ".join(sorted(units[track].format(epsilon) for track, epsilon in budgets))


def _compare_tasks(pairs: DataFrame) -> DataFrame:
    groups = pairs.sort_values(["dataset", "position_a", "task"]).groupby(["dataset", "task"], sort=False)
    return _adjust_p_values(DataFrame([_task_row(labels, rows) for labels, rows in groups]))


def _task_row(labels: tuple[Hashable, ...], rows: DataFrame) -> dict[str, object]:
    dataset, task = labels
    paired = compare_pairs(rows["difference"], rows["seed"])
    defined = rows[rows["difference"].notna()]
    interval = paired.interval
    return {
        "dataset": dataset,
        "task": task,
        "metric": rows["headline_a"].iloc[0],
        "raw_a": rows["raw_a"].mean(),
        "raw_b": rows["raw_b"].mean(),
        "raw": mean_over_seeds(rows["raw_difference"], rows["seed"]),
        "protection_a": defined["protection_a"].mean(),
        "protection_b": defined["protection_b"].mean(),
        "protection": paired.mean,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "wins": paired.wins,
        "ties": paired.ties,
        "losses": paired.losses,
        "paired": paired,
    }


def list_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a JSON object: its attributes, with a list of rows for each table."""
    tables = {name: list_rows(getattr(comparison, name)) for name in ("parts", "costs", "tasks")}
    names = ("axis", "a", "b", "verdict", "overall", "cells", "only_a", "only_b", "budgets")
    return {name: getattr(comparison, name) for name in names} | tables


def render_comparison(comparison: Comparison) -> str:
    """Return a comparison in markdown: the verdict in one sentence, then a row per task."""
    a, b = escape_markdown(comparison.a), escape_markdown(comparison.b)
    rows = [
        {
            "dataset": row["dataset"],
            "task": row["task"],
            comparison.a: format_protection(row["protection_a"]),
            comparison.b: format_protection(row["protection_b"]),
            "difference": format_difference(row["protection"], row["low"], row["high"]),
            "p": format_p_value(row["adjusted"]),
            f"{comparison.a} wins/ties/losses": f"{row['wins']}/{row['ties']}/{row['losses']}",
            "metric": metric_label(row["metric"]),
            f"raw {comparison.a}": format_score(row["raw_a"], row["metric"]),
            f"raw {comparison.b}": format_score(row["raw_b"], row["metric"]),
            "raw difference": format_score(row["raw"], row["metric"]),
        }
        for row in comparison.tasks.to_dict("records")
    ]
    overall = comparison.overall
    legend = (
        f"{format_count(comparison.cells, 'cell')} of each side "
        f"{'is' if comparison.cells == 1 else 'are'} paired (equal in all axes except {comparison.axis}); "
        f"without a counterpart: {comparison.only_a} of {a}, {comparison.only_b} of {b}. "
        f"Over the paired cells {a} wins {overall.wins}, ties {overall.ties} and loses {overall.losses}."
    )
    if overall.p_value is not None:
        legend += (
            f" Exact sign-flip test over seeds, with the choice of the defense repeated: p = "
            f"{overall.p_value:.2g}. Every p of a table is corrected for all of its rows (Holm)."
        )
    if comparison.budgets is not None:
        of_a, of_b = comparison.budgets
        legend += f" Their budgets differ ({a}: {of_a}, {b}: {of_b}): this comparison is not a ranking."
    title, verdict = f"# {a} against {b}", escape_markdown(comparison.verdict)
    tables = (
        markdown_table(rows),
        legend,
        _render_parts(comparison),
        render_cost_ratios(comparison.costs, a, b),
    )
    return join_blocks(title, verdict, *tables) + "\n"


def _render_parts(comparison: Comparison) -> str:
    rows = [
        {
            "axis": row["axis"],
            "part": row["value"],
            "difference": format_paired(row["paired"]),
            "p": format_p_value(row["adjusted"]),
            f"{comparison.a} wins/ties/losses": "{0.wins}/{0.ties}/{0.losses}".format(row["paired"]),
        }
        for row in comparison.parts.to_dict("records")
    ]
    if not rows:
        return ""
    return join_blocks("## By part", "Means over cells, without a choice.", markdown_table(rows))


def format_paired(paired: PairedDifferences) -> str:
    """Return a mean difference with its interval."""
    interval = paired.interval
    return format_difference(
        paired.mean, interval.low if interval else None, interval.high if interval else None
    )


def format_p_value(value: float | None) -> str:
    """Return a p-value with two digits."""
    return format_with_spec(value, ".2g")


def format_difference(mean: float | None, low: float | None, high: float | None) -> str:
    """Return a difference with its interval, if there is one."""
    text = format_protection(mean)
    return text if is_missing(mean) or is_missing(low) else f"{text} [{low:z.2f}, {high:z.2f}]"
