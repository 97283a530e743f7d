"""Learning curves of poisoned victims, beside those of clean ones."""

import math
from collections.abc import Mapping
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
    panels, mark = [], track_marker(data.frame)
    attacks = [attack for attack in attack_order(data.frame) if attack != CLEAN]
    datasets = dataset_names(data.frame)
    for dataset in datasets:
        victims = default_victim_rows(data.frame, dataset).drop_duplicates("key")
        by_attack = {attack: _mean_curves(rows, data.curves) for attack, rows in victims.groupby("attack")}
        panels += [
            (
                (dataset, mark(attack))[len(datasets) == 1 :],
                {"clean": by_attack.get(CLEAN), "poisoned": by_attack[attack]},
            )
            for attack in attacks
            if len(by_attack.get(attack, ()))
        ]
    if not panels:
        return None
    columns = min(len(panels), int(data.width / PANEL))
    lines, room = math.ceil(len(panels) / columns), data.width / columns - 0.1
    title = 0.15 * len(panels[0][0])
    height = (0.95 + title) * lines + 0.5
    figure = Figure((data.width, height))
    figure.subplots_adjust(
        *(0.5 / data.width, 0.35 / height, 1 - 0.05 / data.width, 1 - (0.25 + title) / height),
        *(0.12, (0.25 + title) / 0.75),
    )
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    scores = [curve.to_numpy() for _, curves in panels for curve in curves.values() if curve is not None]
    # Sharing the axis would do the same, in a time that grows with the square of the number of panels.
    low, high = min(0.0, *map(np.nanmin, scores)), max(map(np.nanmax, scores))
    for number, (axes, (names, curves)) in enumerate(zip(grid, panels, strict=False)):
        _draw_panel(axes, curves)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.tick_params(axis="y", labelleft=number % columns == 0)
        axes.set_title("\n".join(shorten(name, room) for name in names))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", y=0.05 / height, va="bottom", fontsize=FONT_SIZE)
    label = "relative score (0: floor, 1: perfect)" if lines > 1 else "relative score"
    figure.supylabel(label, x=0.05 / data.width, ha="left", fontsize=FONT_SIZE)
    handles = [Line2D([], [], **style) for style in STYLES.values()]
    figure.legend(handles, [*STYLES], loc="upper center", borderaxespad=0, ncols=2, frameon=False)
    return figure


def _draw_panel(axes: Axes, curves: "Mapping[str, DataFrame | None]") -> None:
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
