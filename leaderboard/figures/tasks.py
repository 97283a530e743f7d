"""The protection of every task."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from bench.record import CLEAN
from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import (
    CHARACTER,
    COLORS,
    FAINT,
    FONT_SIZE,
    label_width,
    shorten,
    split_columns,
    wrap_text,
)
from leaderboard.ranking import track_marker
from leaderboard.rows import dataset_names
from leaderboard.sections.tasks import FLOOR, scores_by_task

COLUMN = 0.12
"""Smallest width of the bar of a task, in inches: its name fits below it, turned."""

STRIP = 0.32
"""Height of the strip of an attack, in inches."""

MAX_LABEL = 1.2
"""Longest name of a task, in inches."""

LIMITS = (-0.25, 1.25)
"""Bars are cut off there."""

FILL = 0.75
"""Height of a bar of protection 1, as a share of the height of a strip."""


def draw_tasks(data: FigureData) -> Figure | None:
    """Draw a strip of bars per attack, with a bar per task; None if no dataset has several tasks.

    Default victims without a defense, means over seeds. Tasks that do not fit next to each other are in
    several rows of panels.
    """
    blocks = []
    for dataset in dataset_names(data.frame):
        scores: DataFrame = scores_by_task(data.frame, dataset).drop(index=[FLOOR, CLEAN], errors="ignore")
        table = DataFrame(scores["protection"])
        table = table.dropna(how="all").dropna(how="all", axis="columns")
        if len(table) and len(table.columns) > 1:
            room = data.width - label_width(table.index, data.width) - 0.5
            names = split_columns(list(table.columns), room, COLUMN)
            blocks += [(dataset, table[columns], len(names[0])) for columns in names]
    if not blocks:
        return None
    belows = [min(MAX_LABEL, CHARACTER * max(map(len, table.columns))) for _, table, _ in blocks]
    heights = [STRIP * len(table) + below + 0.4 for (_, table, _), below in zip(blocks, belows, strict=True)]
    figure = Figure((data.width, sum(heights) + 0.25), layout="constrained")
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights).flat
    mark = track_marker(data.frame)
    for axes, (dataset, table, columns), below in zip(panels, blocks, belows, strict=True):
        _draw_bars(axes, table)
        room = label_width(map(mark, table.index), data.width)
        axes.set_yticks(range(len(table)), [shorten(mark(str(attack)), room) for attack in table.index])
        tasks = [shorten(name, below) for name in table.columns]
        is_turned = below > (data.width - room - 0.5) / columns
        axes.set_xticks(range(len(tasks)), tasks, rotation=90 if is_turned else 0)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_title(shorten(dataset, data.width / 2), loc="left")
    caption = (
        "protection per task, without a defense; solid line: 0 (no effect), dotted line: 1 (nothing learned)"
    )
    figure.supxlabel(wrap_text(caption, data.width), fontsize=FONT_SIZE)
    return figure


def _draw_bars(axes: Axes, table: DataFrame) -> None:
    """Draw the bars of an attack upwards from its line, and downwards if the protection is negative."""
    count = len(table)
    for line in range(count):
        axes.axhline(line + 0.5, color="black", linewidth=0.5)
        axes.axhline(line + 0.5 - FILL, color=FAINT, linewidth=0.5, linestyle=":")
    values = table.to_numpy(float).clip(*LIMITS) * FILL
    lines, columns = np.nonzero(~np.isnan(values))
    heights = values[lines, columns]
    colors = np.where(heights < 0, COLORS[1], COLORS[0])
    axes.bar(columns, -heights, 0.8, lines + 0.5, color=colors)
    axes.set_ylim(count - 0.2, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
