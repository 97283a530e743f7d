"""What poisons cost: protection by seconds, and seconds and memory by attack."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from bench.record import CLEAN, POISON_PHASES, is_clean
from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import FAINT, LINE, UNPOISONED, label_lines, style_of, wrap_text
from leaderboard.pareto_front import pareto_front
from leaderboard.ranking import attack_order, track_marker
from leaderboard.scores import TRACKS
from leaderboard.sections.budgets import poison_costs
from leaderboard.sections.costs import cost_table

HEIGHT = 2.3
"""Height of the panel of protection, in inches."""

PLACES = [(0, 7), (9, 0), (-9, 0), (0, -7), (8, 6), (-8, 6), (8, -6), (-8, -6), (0, 14), (0, -14)]
"""Where the number of a point may be, in points from it; the first ones are preferred."""


def draw_costs(data: FigureData) -> Figure | None:
    """Draw protection by seconds with its Pareto front, and seconds and peak memory of every attack.

    Points have the numbers of the attacks in the panels below, which are in the order of the rankings. The
    front of a track has the attacks that no other one of the track beats in both. None if nothing was
    measured.
    """
    table = cost_table(data.frame)
    table = table[table["phase"].isin(POISON_PHASES) & ~table["part"].map(is_clean)]
    if table.empty:
        return None
    attacks = [attack for attack in attack_order(data.frame) if attack in set(table["part"])]
    attacks += sorted(set(table["part"]) - set(attacks))
    points = _protection_by_cost(data)
    above = HEIGHT if len(points) else 0.0
    below = 0.5 + LINE * len(attacks)
    figure = Figure((data.width, above + below + 0.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[above or 0.001, below])
    if len(points):
        numbers = {attack: str(number) for number, attack in enumerate(attacks, 1)}
        points = points.assign(number=points["attack"].map(numbers))
        _draw_protection(figure.add_subplot(grid[0, :]), points, data.width)
    left = figure.add_subplot(grid[1, 0])
    right = figure.add_subplot(grid[1, 1], sharey=left)
    _draw_seconds_and_memory(left, right, table, attacks, data.width)
    mark = track_marker(data.frame)
    label_lines(left, [f"{number} {mark(attack)}" for number, attack in enumerate(attacks, 1)], data.width)
    right.tick_params(axis="y", length=0, labelleft=False)
    right.grid(axis="y")
    entries = left.get_legend_handles_labels()
    columns = max(1, int(data.width / 1.7))
    figure.legend(*entries, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _protection_by_cost(data: FigureData) -> DataFrame:
    """Return ``attack``, ``track``, ``seconds`` and ``protection`` of the attacks that have all of them."""
    ranked = data.ranking
    rows = data.frame[~data.frame["partial"] & (data.frame["attack"] != CLEAN)]
    if ranked.empty or rows.empty:
        return DataFrame()
    table = ranked.merge(poison_costs(rows), on="attack")[["attack", "track", "seconds", "protection"]]
    return table[table["seconds"] > 0]


def _draw_protection(axes: Axes, points: DataFrame, width: float) -> None:
    for number, track in enumerate(TRACKS):
        of_track = points[points["track"] == track]
        if of_track.empty:
            continue
        style = style_of(number) | {"color": UNPOISONED}
        pairs = list(zip(of_track["seconds"], of_track["protection"], strict=True))
        front = pareto_front(pairs)
        label = f"Pareto front, {track}"
        axes.plot(*zip(*front, strict=True), drawstyle="steps-post", label=label, **style)
        others = of_track[[pair not in front for pair in pairs]]
        axes.plot(others["seconds"], others["protection"], fillstyle="none", **style | {"linestyle": ""})
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.06, 0.16)
    axes.set_xlabel("seconds, surrogates included")
    axes.set_ylabel("protection")
    axes.grid()
    _number_points(axes, points, width)


def _number_points(axes: Axes, points: DataFrame, width: float) -> None:
    """Write the number of each point beside it, away from other points and numbers as far as possible."""
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    across = width * 0.9 * 72 / math.log(high / low)
    up = HEIGHT * 0.75 * 72 / (top - bottom)
    places = [
        (math.log(seconds / low) * across, (protection - bottom) * up)
        for seconds, protection in zip(points["seconds"], points["protection"], strict=True)
    ]
    taken = [*places]
    for (x, y), (_, point) in zip(places, points.iterrows(), strict=True):
        free = [min(_distance((x + dx, y + dy), other) for other in taken) for dx, dy in PLACES]
        choice = next((i for i, space in enumerate(free) if space > 1), free.index(max(free)))
        dx, dy = PLACES[choice]
        taken.append((x + dx, y + dy))
        at = (point["seconds"], point["protection"])
        position: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
        axes.annotate(point["number"], at, (dx, dy), color=UNPOISONED, **position)


def _distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return how far two texts are apart; they touch at 1."""
    return max(abs(one[0] - other[0]) / 9, abs(one[1] - other[1]) / 7)


def _draw_seconds_and_memory(
    left: Axes, right: Axes, table: DataFrame, attacks: list[str], width: float
) -> None:
    memory = "device_mb" if table["device_mb"].notna().any() else "host_mb"
    datasets = sorted(set(table["dataset"]))
    for (dataset, phase), rows in table.groupby(["dataset", "phase"]):
        lines = rows["part"].map(attacks.index)
        style = style_of(datasets.index(dataset)) | {"linestyle": ""}
        style["fillstyle"] = "full" if phase == "craft" else "none"
        left.plot(rows["s"], lines, label=f"{phase}, {dataset}", **style)
        right.plot(rows[memory], lines, **style)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_xlabel("seconds")
    label = f"peak memory of the {'device' if memory == 'device_mb' else 'process'}, MiB"
    right.set_xlabel(wrap_text(label, width / 3))
    right.set_xlim(left=0)
    right.axvline(0, color=FAINT, linewidth=0.6)
