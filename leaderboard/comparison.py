"""Two values of one axis against each other, over the cells that are equal in everything else."""

from collections.abc import Hashable
from dataclasses import dataclass

from pandas import DataFrame

from bench.errors import BenchError, unknown_name_error
from bench.record import AXES, CLEAN
from leaderboard.frame import full_protection_rows
from leaderboard.statistics import TIE, Paired, compare_pairs


@dataclass(frozen=True)
class Comparison:
    """Differences A - B over paired cells.

    Attributes:
        axis: the axis that differs.
        a: its label on one side; ``b`` on the other.
        overall: differences of the cells' mean protection, over the tasks defined on both sides.
        tasks: one row per dataset and task: ``dataset``, ``task``, ``metric`` (the headline), ``raw_a``,
            ``raw_b``, ``raw`` (A - B), ``raw_pairs``; ``protection_a``, ``protection_b``, ``protection``
            (A - B, mean over seeds), ``low``, ``high`` (95 % interval, NaN with one seed), ``wins``,
            ``ties``, ``losses``, ``pairs``.
        cells: cells that have a counterpart; ``only_a`` and ``only_b`` count those that have none.
        unbounded: the side that is an attack of the unbounded track, where the other one is not.
    """

    axis: str
    a: str
    b: str
    overall: Paired
    tasks: DataFrame
    cells: int
    only_a: int
    only_b: int
    unbounded: str | None

    @property
    def verdict(self) -> str:
        """Who wins, in one plain sentence."""
        mean, interval = self.overall.mean, self.overall.interval
        if mean is None:
            return (
                f"{self.a} and {self.b} cannot be compared: no task of their paired cells is defined in both."
            )
        seeds = f", {_count(self.overall.seeds, 'seed')}" if interval else " (one seed: no interval)"
        over = f"over {_count(self.overall.pairs, 'paired cell')}{seeds}"
        if interval and interval.includes_zero:
            return (
                f"{self.a} and {self.b} cannot be told apart: protection differs by {mean:z.2f} "
                f"[{interval.low:z.2f}, {interval.high:z.2f}] {over}, and the interval includes 0."
            )
        if abs(mean) <= TIE:
            return f"{self.a} and {self.b} protect equally {over}."
        winner, loser = (self.a, self.b) if mean > 0 else (self.b, self.a)
        size = f"{abs(mean):.2f}"
        if interval:
            low, high = sorted((abs(interval.low), abs(interval.high)))
            size += f" [{low:.2f}, {high:.2f}]"
        if self.axis == "attack":
            return f"{winner} protects more than {loser} by {size} {over}."
        return f"Protection is higher under {winner} than under {loser} by {size} {over}."


def compare_attacks(frame: DataFrame, a: str, b: str, axis: str = "attack") -> Comparison:
    """Compare two labels of an axis over the cells that are equal in all other axes.

    Along any axis but the attack the clean cells, whose protection is 0 on both sides, and attacks on some of
    the images or tasks only are left out.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        a: label of the one side, as the records spell it, such as ``em`` or ``jpeg(quality=30)``.
        b: label of the other side.
        axis: the axis they are values of.

    Raises:
        BenchError: for an axis or label that does not exist, twice the same label, or no pair of cells.
    """
    _check(frame, a, b, axis)
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
        tasks=_by_task(pairs),
        cells=len(per_cell),
        only_a=sides[0]["key"].nunique() - pairs["key_a"].nunique(),
        only_b=sides[1]["key"].nunique() - pairs["key_b"].nunique(),
        unbounded=_unbounded(frame, a, b) if axis == "attack" else None,
    )


def _check(frame: DataFrame, a: str, b: str, axis: str) -> None:
    if axis not in AXES:
        raise unknown_name_error("axis", axis, set(AXES) - {"seed"})
    if axis == "seed":
        raise BenchError(
            "seeds are what a comparison is repeated over, so they cannot be compared themselves"
        )
    if a == b:
        raise BenchError(f"both sides of the comparison are {axis} {a!r}; name two different ones")
    for label in (a, b):
        if label not in set(frame[axis]):
            raise unknown_name_error(f"{axis} in these results:", label, set(frame[axis]))


def _unbounded(frame: DataFrame, a: str, b: str) -> str | None:
    free = [label for label in (a, b) if not frame.loc[frame["attack"] == label, "bounded"].all()]
    return free[0] if len(free) == 1 else None


def _by_task(pairs: DataFrame) -> DataFrame:
    groups = pairs.sort_values(["dataset", "position_a", "task"]).groupby(["dataset", "task"], sort=False)
    return DataFrame([_task_row(name, rows) for name, rows in groups])


def _task_row(name: tuple[Hashable, ...], rows: DataFrame) -> dict[str, object]:
    dataset, task = name
    paired = compare_pairs(rows["difference"], rows["seed"])
    raw = compare_pairs(rows["raw_difference"], rows["seed"])
    both = rows[rows["difference"].notna()]
    interval = paired.interval
    return {
        "dataset": dataset,
        "task": task,
        "metric": rows["headline_a"].iloc[0],
        "raw_a": rows["raw_a"].mean(),
        "raw_b": rows["raw_b"].mean(),
        "raw": raw.mean,
        "raw_pairs": raw.pairs,
        "protection_a": both["protection_a"].mean(),
        "protection_b": both["protection_b"].mean(),
        "protection": paired.mean,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "wins": paired.wins,
        "ties": paired.ties,
        "losses": paired.losses,
        "pairs": paired.pairs,
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
