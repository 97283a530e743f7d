"""A heat map: the protection of every attack by the value of another axis."""

import math

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pandas import DataFrame

from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import CHARACTER, LINE, label_width, shorten, split_columns
from leaderboard.heatmap_table import heatmap_table
from leaderboard.ranking import track_marker

COLUMN = 0.27
"""Smallest width of a column, in inches: a number fits in it."""

MAX_LABEL = 1.4
"""Longest label of a column, in inches."""

KEY = 0.7
"""Width of the key to the colors, in inches."""

COLORMAP = "viridis"


def draw_heatmap(data: FigureData, axis: str) -> Figure | None:
    """Draw attacks, in the order of the rankings, against the labels of an axis.

    Attacks that were run with several labels are in it; None if there is none. Labels that do not fit next
    to each other are in several rows of panels.
    """
    table = heatmap_table(data.frame, axis)
    table = table[table.notna().sum(axis="columns") > 1].dropna(how="all", axis="columns")
    if table.empty:
        return None
    mark = track_marker(data.frame)
    left = label_width(map(mark, table.index), data.width)
    blocks = split_columns(list(table.columns), data.width - left - KEY, COLUMN)
    parts = [table[labels].dropna(how="all") for labels in blocks]
    below = min(MAX_LABEL, CHARACTER * max(len(label) for label in table.columns))
    is_turned = below > (data.width - left - KEY) / len(blocks[0])
    heights = [LINE * len(part) + (below if is_turned else LINE) + 0.25 for part in parts]
    figure = Figure((data.width, sum(heights) + 0.2), layout="constrained")
    panels = list(figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights).flat)
    for axes, part in zip(panels, parts, strict=True):
        _draw_cells(axes, part)
        axes.set_yticks(range(len(part)), [shorten(mark(attack), left) for attack in part.index])
        labels = [shorten(label, below) for label in part.columns]
        axes.set_xticks(range(len(labels)), labels, rotation=90 if is_turned else 0)
        axes.set_xlim(-0.5, len(blocks[0]) - 0.5)  # columns are as wide in every row
    panels[-1].set_xlabel(axis)
    key = figure.colorbar(ScalarMappable(Normalize(0, 1), COLORMAP), ax=panels, fraction=0.03, aspect=30)
    key.set_label("protection")
    key.outline.set_visible(False)
    return figure


def _draw_cells(axes: Axes, table: DataFrame) -> None:
    colors = colormaps[COLORMAP](table.clip(0, 1).to_numpy(float))
    colors[table.isna().to_numpy()] = 0.95  # light gray: no value
    axes.imshow(colors, aspect="auto", interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row, values in enumerate(table.to_numpy(float)):
        for column, value in enumerate(values):
            if not math.isnan(value):
                dark = value < 0.6  # the lower colors of the map are dark, also in gray
                text = f"{value:z.2f}"
                axes.text(
                    column, row, text, ha="center", va="center_baseline", color="white" if dark else "black"
                )
