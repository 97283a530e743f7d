"""Learning curves of poisoned victims, beside those of clean ones."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series, concat

from bench.record import CLEAN
from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import FAINT, FONT_SIZE, POISONED, UNPOISONED, shorten
from leaderboard.ranking import attack_order, track_marker
from leaderboard.rows import dataset_names, default_victim_rows

PANEL = 1.15
"""Smallest width of a panel, in inches."""

VictimCurves = Mapping[str, DataFrame | None]
"""Victim (clean or poisoned) → its curves: a row per epoch, a column per seed; None if there are none."""

STYLES: Mapping[str, Any] = {
    "clean": {"color": UNPOISONED, "linestyle": "--"},
    "poisoned": {"color": POISONED, "linestyle": "-"},
}
"""Victim → how its curve is drawn."""


def draw_curves(data: FigureData) -> Figure | None:
    """Draw a panel per dataset and attack; None if there is no curve of one.

    It has the relative score (a mean over tasks) of the poisoned and the clean victim by epoch. Default
    victims with defense ``none``; the band is the range over the seeds.
    """
    by_dataset = {dataset: _curves_by_attack(data, dataset) for dataset in dataset_names(data.frame)}
    by_dataset = {dataset: curves for dataset, curves in by_dataset.items() if curves}
    if not by_dataset:
        return None
    columns = min(max(map(len, by_dataset.values())), int(data.width / PANEL))
    lines = sum(math.ceil(len(curves) / columns) for curves in by_dataset.values())
    room = data.width / columns - 0.1
    title = 0.15 if len(by_dataset) == 1 else 0.3
    height = (0.95 + title) * lines + 0.5
    figure = Figure((data.width, height))
    figure.subplots_adjust(
        *(0.5 / data.width, 0.35 / height, 1 - 0.05 / data.width, 1 - (0.25 + title) / height),
        *(0.12, (0.25 + title) / 0.75),
    )
    grid, line = figure.add_gridspec(lines, columns), 0
    for dataset, curves_by_attack in by_dataset.items():  # each begins a line
        limits = _score_limits(curves_by_attack.values())
        for number, (attack, curves) in enumerate(curves_by_attack.items()):
            axes = figure.add_subplot(grid[line + number // columns, number % columns])
            _draw_panel(axes, curves)
            # Sharing the axis would do the same, in a time that grows with the square of the panels.
            axes.set_ylim(limits)
            axes.tick_params(axis="y", labelleft=number % columns == 0)
            names = [attack] if len(by_dataset) == 1 else [dataset, attack]
            axes.set_title("\n".join(shorten(name, room) for name in names))
        line += math.ceil(len(curves_by_attack) / columns)
    figure.supxlabel("epoch", y=0.05 / height, va="bottom", fontsize=FONT_SIZE)
    label = "relative score (0: floor, 1: perfect)" if lines > 1 else "relative score"
    figure.supylabel(label, x=0.05 / data.width, ha="left", fontsize=FONT_SIZE)
    handles = [Line2D([], [], **style) for style in STYLES.values()]
    figure.legend(handles, [*STYLES], loc="upper center", borderaxespad=0, ncols=2, frameon=False)
    return figure


def _curves_by_attack(data: FigureData, dataset: str) -> dict[str, VictimCurves]:
    """Return the curves of the attacks on a dataset, in the order of the rankings."""
    victims = default_victim_rows(data.frame, dataset).drop_duplicates("key")
    by_attack = {attack: _mean_curves(rows, data.curves) for attack, rows in victims.groupby("attack")}
    clean, mark = by_attack.pop(CLEAN, None), track_marker(data.frame)
    order = [attack for attack in attack_order(data.frame) if len(by_attack.get(attack, ()))]
    return {mark(attack): {"clean": clean, "poisoned": by_attack[attack]} for attack in order}


def _score_limits(panels: Iterable[VictimCurves]) -> tuple[float, float]:
    """Return limits in which all curves and 0 can be seen."""
    scores = [curve.to_numpy() for curves in panels for curve in curves.values() if curve is not None]
    low, high = min(0.0, *map(np.nanmin, scores)), max(0.0, *map(np.nanmax, scores))
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def _draw_panel(axes: Axes, curves: VictimCurves) -> None:
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for victim, by_seed in curves.items():
        if by_seed is not None:
            axes.plot(by_seed.index, by_seed.mean(axis=1), **STYLES[victim])
            if by_seed.shape[1] > 1:
                low, high = by_seed.min(axis=1), by_seed.max(axis=1)
                color = STYLES[victim]["color"]
                axes.fill_between(by_seed.index, low, high, color=color, alpha=0.2, linewidth=0)


def _mean_curves(victims: DataFrame, curves: Mapping[str, "Series[float]"]) -> DataFrame:
    """Return the mean curve of each seed's victims: a row per epoch, a column per seed."""
    return DataFrame(
        {
            seed: concat([curves[key] for key in keys], axis=1).mean(axis=1)
            for seed, keys in victims.groupby("seed")["key"]
        }
    )
