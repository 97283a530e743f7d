"""Comparison of two labels of an axis, over the cells that are equal in all other axes."""

from collections.abc import Hashable
from dataclasses import dataclass

from pandas import DataFrame

from bench.errors import BenchError, unknown_name_error
from bench.record import AXES, CLEAN
from leaderboard.formatting import (
    escape_markdown,
    format_count,
    format_protection,
    format_score,
    is_missing,
    join_blocks,
    markdown_table,
    metric_label,
)
from leaderboard.rows import full_protection_rows
from leaderboard.statistics import TIE, PairedDifferences, compare_pairs, mean_over_seeds


@dataclass(frozen=True)
class Comparison:
    """Differences A - B over paired cells.

    Attributes:
        axis: the axis that differs.
        a: its label on one side; ``b`` on the other.
        overall: differences of the cells' mean protection, over the tasks defined on both sides.
        tasks: one row per dataset and task: ``dataset``, ``task``, ``metric`` (the headline), ``raw_a``,
            ``raw_b``, ``raw`` (A - B, mean over seeds); ``protection_a``, ``protection_b``, ``protection``
            (A - B, mean over seeds), ``low``, ``high`` (95 % interval, NaN with one seed), ``wins``,
            ``ties``, ``losses``.
        cells: number of pairs of cells; ``only_a`` and ``only_b`` are the numbers of cells without a
            counterpart.
        unbounded: the side that is an attack of the unbounded track, if the other one is not.
    """

    axis: str
    a: str
    b: str
    overall: PairedDifferences
    tasks: DataFrame
    cells: int
    only_a: int
    only_b: int
    unbounded: str | None

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        mean, interval = self.overall.mean, self.overall.interval
        if mean is None:
            return (
                f"{self.a} and {self.b} cannot be compared: no task of their paired cells is defined in both."
            )
        seeds = f", {format_count(self.overall.seeds, 'seed')}" if interval else " (one seed: no interval)"
        over = f"over {format_count(self.overall.pairs, 'paired cell')}{seeds}"
        if interval and interval.includes_zero:
            return (
                f"No clear difference between {self.a} and {self.b}: protection differs by {mean:z.2f} "
                f"[{interval.low:z.2f}, {interval.high:z.2f}] {over}, and the interval includes 0."
            )
        if abs(mean) <= TIE:
            return f"{self.a} and {self.b} protect equally well {over}."
        winner, loser = (self.a, self.b) if mean > 0 else (self.b, self.a)
        size = f"{abs(mean):.2f}"
        if interval:
            low, high = sorted((abs(interval.low), abs(interval.high)))
            size += f" [{low:.2f}, {high:.2f}]"
        if self.axis == "attack":
            return f"{winner} protects more than {loser} by {size} {over}."
        return f"Protection is higher under {winner} than under {loser} by {size} {over}."


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
    per_cell = pairs.groupby("key_a", sort=False).agg({"difference": "mean", "seed": "first"})
    return Comparison(
        axis=axis,
        a=a,
        b=b,
        overall=compare_pairs(per_cell["difference"], per_cell["seed"]),
        tasks=_compare_tasks(pairs),
        cells=len(per_cell),
        only_a=sides[0]["key"].nunique() - pairs["key_a"].nunique(),
        only_b=sides[1]["key"].nunique() - pairs["key_b"].nunique(),
        unbounded=_unbounded(frame, a, b) if axis == "attack" else None,
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


def _unbounded(frame: DataFrame, a: str, b: str) -> str | None:
    unbounded = [label for label in (a, b) if not frame.loc[frame["attack"] == label, "bounded"].all()]
    return unbounded[0] if len(unbounded) == 1 else None


def _compare_tasks(pairs: DataFrame) -> DataFrame:
    groups = pairs.sort_values(["dataset", "position_a", "task"]).groupby(["dataset", "task"], sort=False)
    return DataFrame([_task_row(labels, rows) for labels, rows in groups])


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
    }


def render_comparison(comparison: Comparison) -> str:
    """Return a comparison in markdown: the verdict in one sentence, then a row per task."""
    a, b = escape_markdown(comparison.a), escape_markdown(comparison.b)
    rows = [
        {
            "dataset": row["dataset"],
            "task": row["task"],
            comparison.a: format_protection(row["protection_a"]),
            comparison.b: format_protection(row["protection_b"]),
            "difference": _format_interval(row["protection"], row["low"], row["high"]),
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
        legend += f" Sign-flip test over seeds: p = {overall.p_value:.2g}."
    if comparison.unbounded is not None:
        legend += (
            f" {escape_markdown(comparison.unbounded)} has no budget and is ranked in a separate track: this "
            "comparison is not a ranking."
        )
    title, verdict = f"# {a} against {b}", escape_markdown(comparison.verdict)
    return join_blocks(title, verdict, markdown_table(rows), legend) + "\n"


def _format_interval(mean: float | None, low: float | None, high: float | None) -> str:
    text = format_protection(mean)
    return text if is_missing(mean) or is_missing(low) else f"{text} [{low:z.2f}, {high:z.2f}]"
