"""The ranking: protection with its interval, and without a defense."""

from typing import Any

from matplotlib.figure import Figure

from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import FAINT, LINE, POISONED, UNPOISONED, label_lines
from leaderboard.ranking import TRACK_MARKS, track_marker
from leaderboard.scores import TRACKS


def draw_ranking(data: FigureData) -> Figure | None:
    """Draw a line per attack in the order of the rankings; None if there is none.

    It has the protection under the best defense, its 95 % interval over seeds, and the protection without a
    defense.
    """
    table, frame = data.ranking, data.frame
    if table.empty:
        return None
    figure = Figure((data.width, 1.0 + LINE * len(table)), layout="constrained")
    axes = figure.subplots()
    for value, meaning in ((0.0, "no effect"), (1.0, "nothing learned")):
        axes.axvline(value, color=FAINT, linewidth=1)
        position: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(meaning, (value, 1), (0, 3), ha="center", **position)
    lines, label = range(len(table)), "under the best defense, 95 % interval over seeds"
    # An interval surrounds its value; rounding may say otherwise.
    lengths = [(table["protection"] - table["low"]).clip(0), (table["high"] - table["protection"]).clip(0)]
    axes.errorbar(table["protection"], lines, xerr=lengths, fmt="o", color=POISONED, capsize=2, label=label)
    axes.plot(table["undefended"], lines, "|", color=UNPOISONED, markersize=8, label="without a defense")
    label_lines(axes, [*map(track_marker(frame), table["attack"])], data.width)
    marked = [track for track in TRACKS if TRACK_MARKS[track] and track in set(table["track"])]
    shown = [f"({TRACK_MARKS[track].strip()} {track})" for track in marked]
    axes.set_xlabel(" ".join(["protection, mean over tasks and victims", *shown]))
    figure.legend(loc="outside lower center", ncols=2 if data.width > 5 else 1, frameon=False)
    return figure
