"""The figure of protection by budget, by passes through networks and by seconds."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from leaderboard.sections.budgets import BUDGETS, attacks_with_costs, budget_table, rows_at_track_budgets

BUDGET_UNITS = {"linf": "ℓ∞ budget, /255", "l2": "ℓ2 budget, per 3·32·32"}
"""Track → what its budgets are, as the label of an axis."""

COST_UNITS = {"passes": "passes per image", "seconds": "seconds"}
"""Cost of a poison, its surrogates included → the label of its axis."""


def draw_budgets(frame: DataFrame, width: float) -> Figure | None:
    """Draw the attacks that were run at several budgets; None if there are none.

    The panels of costs have all attacks at the budget of their track; those that differ in other parameters
    are joined by a line.
    """
    table = budget_table(frame)
    if table.empty:
        return None
    costs = attacks_with_costs(rows_at_track_budgets(frame))
    costs["passes"] = costs["craft_passes"] + costs["surrogate_passes"]
    costs["attack"] = costs["attack"].str.partition("(")[0]
    names = dict.fromkeys([*table["attack"], *costs["attack"]])
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    tracks = [track for track in BUDGETS if track in set(table["track"])]
    figure = Figure((width, 3.6), layout="constrained")
    panels = list(figure.subplots(1, len(tracks) + len(COST_UNITS), sharey=True))
    for track in tracks:
        axes = panels.pop(0)
        _draw_lines(axes, table[table["track"] == track], "epsilon", colors)
        axes.set_xscale("log", base=2)
        axes.set_xlabel(BUDGET_UNITS[track])
        axes.xaxis.set_major_formatter("{x:g}")
    for axes, (measure, unit) in zip(panels, COST_UNITS.items(), strict=True):
        _draw_lines(axes, costs.sort_values(measure), measure, colors)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=-0.2)  # a point at 0 is seen as a whole
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter("{x:g}")
    figure.axes[0].set_ylabel("protection")
    handles = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def _draw_lines(axes: Axes, table: DataFrame, measure: str, colors: dict[str, str]) -> None:
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    for attack, rows in table.groupby("attack", sort=False):
        name = str(attack)
        axes.plot(rows[measure], rows["protection"], "o-", color=colors[name], label=name, markersize=4)
