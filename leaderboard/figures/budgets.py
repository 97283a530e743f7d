"""Protection by budget, by passes through networks and by seconds."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import shorten, style_of
from leaderboard.sections.budgets import BUDGETS, attacks_with_costs, budget_table

BUDGET_UNITS = {"linf": "ℓ∞ budget, /255", "l2": "ℓ2 budget, per 3·32·32"}
"""Track → what its budgets are, as the label of an axis."""

COST_UNITS = {"passes": "passes per image", "seconds": "seconds"}
"""Cost of a poison, its surrogates included → the label of its axis."""

PANEL = 1.7
"""Smallest width of a panel, in inches."""

LEGEND_COLUMN = 1.1
"""Width of a column of the legend, in inches."""


def draw_budgets(data: FigureData) -> Figure | None:
    """Draw the attacks that were run at several budgets; None if there are none.

    The panels of costs have all attacks at the budget of their track; those that differ in other parameters
    are joined by a line.
    """
    table = budget_table(data.all_budgets)
    if table.empty:
        return None
    costs = attacks_with_costs(data.frame)
    costs["passes"] = costs["craft_passes"] + costs["surrogate_passes"]
    costs["attack"] = costs["attack"].str.partition("(")[0]
    names = dict.fromkeys([*table["attack"], *costs["attack"]])
    styles = {name: style_of(number) for number, name in enumerate(names)}
    tracks = [track for track in BUDGETS if track in set(table["track"])]
    count = len(tracks) + len(COST_UNITS)
    columns = min(count, max(1, int(data.width / PANEL)))
    lines, keys = -(-count // columns), max(1, int(data.width / LEGEND_COLUMN))
    figure = Figure((data.width, 2.2 * lines + 0.2 * -(-len(names) // keys)), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes, track in zip(panels, tracks, strict=False):
        _draw_lines(axes, table[table["track"] == track], "epsilon", styles)
        axes.set_xscale("log", base=2)
        axes.set_xlabel(BUDGET_UNITS[track])
        axes.xaxis.set_major_formatter("{x:g}")
    for axes, (measure, unit) in zip(panels[len(tracks) :], COST_UNITS.items(), strict=False):
        _draw_lines(axes, costs.sort_values(measure), measure, styles)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=-0.2)  # a point at 0 is seen as a whole
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in panels[::columns]:
        axes.set_ylabel("protection")
    handles = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    labels = [shorten(name, LEGEND_COLUMN - 0.35) for name in handles]
    figure.legend(handles.values(), labels, loc="outside lower center", ncols=keys, frameon=False)
    return figure


def _draw_lines(axes: Axes, table: DataFrame, measure: str, styles: Mapping[str, dict[str, Any]]) -> None:
    axes.grid()
    for attack, rows in table.groupby("attack", sort=False):
        name = str(attack)
        axes.plot(rows[measure], rows["protection"], label=name, **styles[name])
