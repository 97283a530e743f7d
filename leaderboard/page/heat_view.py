"""Heat maps of the page: tables with colored cells and printed numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pandas import DataFrame

from bench.record import CLEAN
from leaderboard.formatting import MAX_TASK_COLUMNS, format_protection, is_missing
from leaderboard.heatmap_table import heatmap_table
from leaderboard.page.content import PageContent
from leaderboard.ranking import RANKING_COLUMNS
from leaderboard.rows import varying_axes

LEVELS = 20
"""Number of the last color; that of a protection of 1 and above. 0 and below is color 0."""

FIRST_AXIS = "defense"
"""Its heat map is shown first: it is what the exploiter picks in the ranking."""


@dataclass(frozen=True)
class HeatCell:
    """A number and its color; the color is None if there is no number."""

    text: str
    level: int | None


@dataclass(frozen=True)
class HeatMap:
    """A heat map.

    Attributes:
        name: what the columns are, or the rows if transposed.
        title: of its section.
        corner: heading of the first column.
        columns: headings of the others.
        rows: label → cells.
        attacks_are_columns: whether the rows are not the attacks.
        note: a sentence below; may be empty.
    """

    name: str
    title: str
    corner: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[HeatCell]]
    attacks_are_columns: bool = False
    note: str = ""


def axis_heatmaps(content: PageContent) -> list[HeatMap]:
    """Return protection by attack and value of an axis, for every axis that varies."""
    frame = content.board.frame[list(RANKING_COLUMNS)]
    if not len(frame):
        return []
    axes = sorted(varying_axes(frame), key=lambda axis: axis != FIRST_AXIS)
    tables = [
        (axis, heatmap_table(frame, axis, content.attacks).dropna(how="all").dropna(axis=1, how="all"))
        for axis in axes
    ]
    return [
        HeatMap(axis, f"Attack × {axis}", "attack", list(map(str, table.columns)), _color_rows(table))
        for axis, table in tables
        if len(table)
    ]


def task_heatmaps(content: PageContent) -> list[HeatMap]:
    """Return protection by attack and task, a heat map per dataset; its default victims."""
    maps = []
    for dataset, victims in content.default_victims.items():
        rows = {
            attack: {row["task"]: row["protection"] for row in content.task_means[attack][dataset]}
            for attack in content.attacks
            if attack != CLEAN and dataset in content.task_means.get(attack, {})
        }
        table = DataFrame(rows).dropna(axis="columns", how="all")
        if table.empty:
            continue
        is_long = len(table) > MAX_TASK_COLUMNS
        shown = table if is_long else table.T
        maps.append(
            HeatMap(
                name="task",
                title=dataset,
                corner="task" if is_long else "attack",
                columns=list(map(str, shown.columns)),
                rows=_color_rows(shown),
                attacks_are_columns=is_long,
                note=_name_victims(victims),
            )
        )
    return maps


def _color_rows(table: DataFrame) -> dict[str, list[HeatCell]]:
    return {
        str(label): [color_protection(value) for value in values]
        for label, values in zip(table.index, table.to_numpy(float).tolist(), strict=True)
    }


def color_protection(value: float | None) -> HeatCell:
    """Return a protection as a cell of a heat map."""
    if value is None or is_missing(value):
        return HeatCell(format_protection(value), None)
    return HeatCell(format_protection(value), round(LEVELS * min(max(value, 0.0), 1.0)))


def _name_victims(rows: DataFrame) -> str:
    """Return which victims the numbers are means over."""
    axes = ("defense", "backbone", "weighting", "regime")
    return "; ".join(f"{axis} {', '.join(sorted(set(rows[axis])))}" for axis in axes)
