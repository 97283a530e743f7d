"""Figures: protection and cost by attack, and the learning curves of the victims.

The files depend on the records only, not on their order, and are the same bytes every time.
"""

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series, concat

from bench.record import CLEAN, POISON_PHASES, Record, is_clean
from leaderboard.budget_figure import draw_budgets
from leaderboard.frame import to_frame
from leaderboard.ranking import TRACK_MARKS, attack_order, rank_attacks, track_marker
from leaderboard.rows import dataset_names, default_victim_rows
from leaderboard.scores import TRACKS, mean_relative_score
from leaderboard.sections.budgets import rows_at_track_budgets
from leaderboard.sections.costs import cost_table

WIDTH = 9.0
"""Width of every figure, in inches."""

LINE = 0.3
"""Height of the line of an attack, in inches."""

COLUMNS = 4
"""Number of panels of learning curves in a row."""

POISONED, UNPOISONED, FAINT = "#b5332e", "#444444", "#b9b9b9"


def draw_figures(records: Iterable[Record]) -> dict[str, bytes]:
    """Return the figures for which there are data: file name → PNG.

    ``protection.png``
        a line per attack, in the order of the rankings: the protection under the best defense, its 95 %
        interval over seeds, and the protection without a defense.
    ``curves.png``
        a panel per dataset and attack: the relative score (mean over tasks) of the poisoned and the clean
        victim by epoch. Default victims with defense ``none``; the band is the range over the seeds.
    ``cost.png``
        seconds and peak memory of making a poison, by attack and dataset.
    ``budgets.png``
        protection by budget of the attacks that were run at several, by passes and by seconds.
    """
    without_curves, curves = [], {}
    for record in records:  # one at a time: most of a record is its curve
        points = {
            point["epoch"]: mean_relative_score(point["scores"], record.tasks) for point in record.curve
        }
        curves[record.key] = Series(points, dtype=float)
        without_curves.append(replace(record, curve=[]))
    all_budgets = to_frame(without_curves)
    frame = rows_at_track_budgets(all_budgets)
    with rc_context({"text.parse_math": False}):  # names of parts may contain a dollar sign
        figures = {
            "protection.png": _draw_protection(frame),
            "curves.png": _draw_curves(frame, curves),
            "cost.png": _draw_costs(frame),
            "budgets.png": draw_budgets(all_budgets, WIDTH),
        }
        return {name: _encode_png(figure) for name, figure in figures.items() if figure is not None}


def _encode_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # The version of matplotlib would change the bytes without need.
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def _draw_protection(frame: DataFrame) -> Figure | None:
    table = concat([ranked for track in TRACKS if len(ranked := rank_attacks(frame, track))] or [DataFrame()])
    table = table[(table["attack"] != CLEAN) & table["protection"].notna()] if len(table) else table
    if table.empty:
        return None
    figure = Figure((WIDTH, 1.3 + LINE * len(table)), layout="constrained")
    axes = figure.subplots()
    for value, meaning in ((0.0, "no effect"), (1.0, "nothing learned")):
        axes.axvline(value, color=FAINT, linewidth=1)
        position: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(meaning, (value, 1), (0, 3), fontsize=8, ha="center", color=UNPOISONED, **position)
    lines, label = range(len(table)), "under the best defense, 95 % interval over seeds"
    # An interval surrounds its value; rounding may say otherwise.
    lengths = [(table["protection"] - table["low"]).clip(0), (table["high"] - table["protection"]).clip(0)]
    axes.errorbar(table["protection"], lines, xerr=lengths, fmt="o", color=POISONED, capsize=3, label=label)
    axes.plot(table["undefended"], lines, "|", color=UNPOISONED, markersize=11, label="without a defense")
    _label_lines(axes, table["attack"].map(track_marker(frame)))
    marked = [track for track in TRACKS if TRACK_MARKS[track] and track in set(frame["track"])]
    shown = [f"({TRACK_MARKS[track].strip()} {track})" for track in marked]
    axes.set_xlabel(" ".join(["protection, mean over tasks and victims", *shown]))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_costs(frame: DataFrame) -> Figure | None:
    table = cost_table(frame)
    table = table[table["phase"].isin(POISON_PHASES) & ~table["part"].map(is_clean)]
    if table.empty:
        return None
    attacks = [attack for attack in attack_order(frame) if attack in set(table["part"])]
    attacks += sorted(set(table["part"]) - set(attacks))
    memory = "device_mb" if table["device_mb"].notna().any() else "host_mb"
    figure = Figure((WIDTH, 1.3 + LINE * len(attacks)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    datasets = sorted(set(table["dataset"]))
    for (dataset, phase), rows in table.groupby(["dataset", "phase"]):
        lines = rows["part"].map(attacks.index)
        style: dict[str, Any] = {
            "color": f"C{datasets.index(dataset)}",
            "fillstyle": "full" if phase == "craft" else "none",
        }
        left.plot(rows["s"], lines, "o", label=f"{phase}, {dataset}", **style)
        right.plot(rows[memory], lines, "o", **style)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_xlabel("seconds")
    right.set_xlabel(f"peak memory of the {'device' if memory == 'device_mb' else 'process'}, MiB")
    right.set_xlim(left=0)
    _label_lines(left, [track_marker(frame)(attack) for attack in attacks])
    right.grid(axis="y", color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _label_lines(axes: Axes, labels: Iterable[str]) -> None:
    """Label the lines of a figure, the first one at the top."""
    labels = list(labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)


def _draw_curves(frame: DataFrame, curves: Mapping[str, "Series[float]"]) -> Figure | None:
    panels = []
    attacks, mark = [attack for attack in attack_order(frame) if attack != CLEAN], track_marker(frame)
    for dataset in dataset_names(frame):
        victims = default_victim_rows(frame, dataset).drop_duplicates("key")
        by_attack = {attack: _mean_curves(rows, curves) for attack, rows in victims.groupby("attack")}
        panels += [
            (f"{dataset}\n{mark(attack)}", by_attack[attack], by_attack.get(CLEAN))
            for attack in attacks
            if attack in by_attack
        ]
    if not panels:
        return None
    lines = math.ceil(len(panels) / COLUMNS)
    figure = Figure((WIDTH, 0.9 + 1.7 * lines), layout="constrained")
    grid = figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).flat
    for axes, (title, poisoned, clean) in zip(grid, panels, strict=False):
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for by_seed, color in ((clean, UNPOISONED), (poisoned, POISONED)):
            if by_seed is not None:
                axes.plot(by_seed.index, by_seed.mean(axis=1), color=color, linewidth=1.3)
                low, high = by_seed.min(axis=1), by_seed.max(axis=1)
                axes.fill_between(by_seed.index, low, high, color=color, alpha=0.2, linewidth=0)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("relative score (0: floor, 1: perfect)", fontsize=9)
    handles = [Line2D([], [], color=color) for color in (UNPOISONED, POISONED)]
    figure.legend(handles, ["clean", "poisoned"], loc="outside upper center", ncols=2, frameon=False)
    return figure


def _mean_curves(victims: DataFrame, curves: Mapping[str, "Series[float]"]) -> DataFrame:
    """Return the mean curve of each seed's victims: a row per epoch, a column per seed."""
    return DataFrame(
        {
            seed: concat([curves[key] for key in keys], axis=1).mean(axis=1)
            for seed, keys in victims.groupby("seed")["key"]
        }
    )
