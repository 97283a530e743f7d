"""The board in pictures: protection and cost by attack, and how victims learn.

The files depend on the records alone, not on their order, and are the same bytes every time.
"""

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series, concat

from bench.record import CLEAN, POISON_PHASES, Record, Scores, TaskInfo
from leaderboard.formatting import DAGGER
from leaderboard.frame import full_protection_rows, to_frame
from leaderboard.scores import is_clean
from leaderboard.sections.costs import cost_table
from leaderboard.sections.ranking import attack_order, rank_attacks, track_marker
from leaderboard.sections.tasks import usual_victims

WIDTH = 9.0
"""Of every picture, in inches."""

LINE = 0.3
"""Height of an attack's line, in inches."""

COLUMNS = 4
"""Panels of learning curves beside each other."""

POISONED, UNPOISONED, FAINT = "#b5332e", "#444444", "#b9b9b9"


def draw_figures(records: Iterable[Record]) -> dict[str, bytes]:
    """Return the pictures for which there is something to show, as PNG by the file's name.

    ``protection.png``
        a line per attack, as the rankings list them: the least protection over defenses, its standard
        deviation over seeds, and the mean over defenses.
    ``curves.png``
        a panel per dataset and attack: the mean over tasks of what the victim has learned, epoch by epoch,
        beside its clean counterpart. Usual victims under defense ``none``; the band spans the seeds.
    ``cost.png``
        seconds and peak memory of making a poison, by attack and dataset.

    Raises:
        BenchError: when the records follow more than one protocol.
    """
    brief, curves = [], {}
    for record in records:  # one after the other: most of a record is its curve
        curves[record.key] = _learned(record)
        brief.append(replace(record, curve=[]))
    frame = to_frame(brief)
    with rc_context({"text.parse_math": False}):  # names of parts may have a dollar in them
        pictures = {
            "protection.png": _protection(frame),
            "curves.png": _curves(frame, curves),
            "cost.png": _cost(frame),
        }
        return {name: _encode(picture) for name, picture in pictures.items() if picture is not None}


def _encode(picture: Figure) -> bytes:
    file = io.BytesIO()
    # The name of the library's release would change the bytes and say nothing.
    picture.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def _protection(frame: DataFrame) -> Figure | None:
    table = concat([rank_attacks(frame, bounded) for bounded in (True, False)])
    table = table[(table["attack"] != CLEAN) & table["worst"].notna()]
    if table.empty:
        return None
    picture = Figure((WIDTH, 1.3 + LINE * len(table)), layout="constrained")
    axes = picture.subplots()
    for value, meaning in ((0.0, "no effect"), (1.0, "nothing learned")):
        axes.axvline(value, color=FAINT, linewidth=1)
        axes.annotate(
            meaning,
            (value, 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            ha="center",
            textcoords="offset points",
            color=UNPOISONED,
        )
    lines = range(len(table))
    axes.errorbar(
        table["worst"],
        lines,
        xerr=table["spread"],
        fmt="o",
        color=POISONED,
        capsize=3,
        label="least over defenses ± standard deviation over seeds",
    )
    axes.plot(table["mean"], lines, "|", color=UNPOISONED, markersize=11, label="mean over defenses")
    _list(axes, table["attack"].map(track_marker(frame)))
    free = f" ({DAGGER} without a budget)" if not frame["bounded"].all() else ""
    axes.set_xlabel(f"protection, mean over tasks and victims{free}")
    picture.legend(loc="outside lower center", ncols=2, frameon=False)
    return picture


def _cost(frame: DataFrame) -> Figure | None:
    table = cost_table(frame)
    table = table[table["phase"].isin(POISON_PHASES) & ~table["part"].map(is_clean)]
    if table.empty:
        return None
    attacks = [attack for attack in attack_order(frame) if attack in set(table["part"])]
    attacks += sorted(set(table["part"]) - set(attacks))
    memory = "device_mb" if table["device_mb"].notna().any() else "host_mb"
    picture = Figure((WIDTH, 1.3 + LINE * len(attacks)), layout="constrained")
    left, right = picture.subplots(1, 2, sharey=True)
    for number, ((dataset, phase), rows) in enumerate(table.groupby(["dataset", "phase"])):
        lines = rows["part"].map(attacks.index)
        style: dict[str, Any] = {
            "color": f"C{number // len(POISON_PHASES)}",
            "fillstyle": "full" if phase == "craft" else "none",
        }
        left.plot(rows["s"], lines, "o", label=f"{phase}, {dataset}", **style)
        right.plot(rows[memory], lines, "o", **style)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_xlabel("seconds")
    right.set_xlabel(f"peak memory of the {'device' if memory == 'device_mb' else 'process'}, MiB")
    right.set_xlim(left=0)
    _list(left, [track_marker(frame)(attack) for attack in attacks])
    right.grid(axis="y", color="#eeeeee")
    picture.legend(loc="outside lower center", ncols=3, frameon=False)
    return picture


def _list(axes: Axes, labels: Iterable[str]) -> None:
    """Name the lines of a picture, the first on top."""
    labels = list(labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)


def _curves(frame: DataFrame, curves: Mapping[str, "Series[float]"]) -> Figure | None:
    panels = []
    for dataset in sorted(set(full_protection_rows(frame)["dataset"])):
        victims = usual_victims(frame, dataset).drop_duplicates("key")
        learned = {attack: _by_seed(rows, curves) for attack, rows in victims.groupby("attack")}
        shown = [attack for attack in attack_order(frame) if attack != CLEAN and attack in learned]
        panels += [
            (f"{dataset}\n{track_marker(frame)(attack)}", learned[attack], learned.get(CLEAN))
            for attack in shown
        ]
    if not panels:
        return None
    lines = math.ceil(len(panels) / COLUMNS)
    picture = Figure((WIDTH, 0.9 + 1.7 * lines), layout="constrained")
    grid = picture.subplots(lines, COLUMNS, sharey=True, squeeze=False).flat
    for axes, (title, poisoned, clean) in zip(grid, panels, strict=False):
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for by_seed, color in ((clean, UNPOISONED), (poisoned, POISONED)):
            if by_seed is not None:
                axes.plot(by_seed.index, by_seed.mean(axis=1), color=color, linewidth=1.3)
                axes.fill_between(
                    by_seed.index,
                    by_seed.min(axis=1),
                    by_seed.max(axis=1),
                    color=color,
                    alpha=0.2,
                    linewidth=0,
                )
    for axes in list(picture.axes)[len(panels) :]:
        axes.set_visible(False)
    picture.supxlabel("epoch", fontsize=9)
    picture.supylabel("learned: 0 floor, 1 perfect", fontsize=9)
    handles = [Line2D([], [], color=color) for color in (UNPOISONED, POISONED)]
    picture.legend(handles, ["clean", "poisoned"], loc="outside upper center", ncols=2, frameon=False)
    return picture


def _by_seed(victims: DataFrame, curves: Mapping[str, "Series[float]"]) -> DataFrame:
    """Return the mean curve of each seed's victims: a row per epoch, a column per seed."""
    return DataFrame(
        {
            seed: concat([curves[key] for key in keys], axis=1).mean(axis=1)
            for seed, keys in victims.groupby("seed")["key"]
        }
    )


def _learned(record: Record) -> "Series[float]":
    """Return how far a victim came from the floor (0) to perfect (1), the mean over tasks, by epoch."""
    points = {point["epoch"]: _mean(point["scores"], record.tasks) for point in record.curve}
    return Series(points, dtype=float)


def _mean(scores: Scores, tasks: Mapping[str, TaskInfo]) -> float | None:
    """Return the mean over the tasks that have a score, None where none has."""
    learned = []
    for task, info in tasks.items():
        metric = info["scored"]
        score, floor, perfect = (
            scores.get(task, {}).get(metric),
            info["floor"][metric],
            info["perfect"][metric],
        )
        if score is not None and perfect != floor:
            learned.append((score - floor) / (perfect - floor))
    return fmean(learned) if learned else None
