"""Protection against the cost of crafting, with its Pareto front: positions for a drawing in SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from leaderboard.page.ranking_view import RankedTrack
from leaderboard.pareto_front import pareto_front

NOMINAL_WIDTH, NOMINAL_HEIGHT = 700, 330
"""Size in px at which labels are placed; positions are in percent."""

LABEL_HEIGHT, LETTER_WIDTH, DOT = 15, 6.6, 12
"""Height of a label, width of a letter of it, and its distance from the middle of its dot, in px."""


@dataclass(frozen=True)
class CostPoint:
    """An attack: position in percent, its texts, and where its label stands (px from the dot)."""

    attack: str
    rank: str
    x: float
    y: float
    cost: str
    protection: str
    is_on_front: bool
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class CostPlot:
    """A drawing: points, steps of the front (x1, y1, x2, y2) and ticks (position, text), all in percent."""

    points: Sequence[CostPoint]
    front: Sequence[tuple[float, float, float, float]]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def place_costs(track: RankedTrack) -> CostPlot | None:
    """Return the drawing of a track, None with fewer than two attacks of known cost."""
    rows = [
        (row, row.values["protection"], row.craft_s)
        for row in track.rows
        if row.values["protection"] is not None and row.craft_s
    ]
    known = [(row, value, seconds) for row, value, seconds in rows if value is not None and seconds]
    if len(known) < 2:
        return None
    logs = [math.log10(seconds) for *_, seconds in known]
    left, right = math.floor(min(logs) * 2 - 0.2) / 2, math.ceil(max(logs) * 2 + 0.2) / 2
    low, high = track.domain

    def place(seconds: float, value: float) -> tuple[float, float]:
        x = 100 * (math.log10(seconds) - left) / (right - left)
        return round(x, 2), round(100 * (high - value) / (high - low), 2)

    front = pareto_front([(seconds, value) for _, value, seconds in known])
    taken: list[tuple[float, float, float, float]] = []
    spots = [place(seconds, value) for _, value, seconds in known]
    for x, y in spots:
        px, py = x * NOMINAL_WIDTH / 100, y * NOMINAL_HEIGHT / 100
        taken.append((px - DOT + 2, py - DOT + 2, px + DOT - 2, py + DOT - 2))
    points = []
    for (row, value, seconds), (x, y) in zip(known, spots, strict=True):
        label_x, label_y, anchor = _place_label(x, y, len(row.attack), taken)
        on_front = (seconds, value) in front
        points.append(
            CostPoint(
                row.attack, row.rank, x, y, row.craft, row.protection, on_front, label_x, label_y, anchor
            )
        )
    corners = [place(*point) for point in front]
    steps = []
    for (x1, y1), (x2, y2) in pairwise(corners):
        steps += [(x1, y1, x2, y1), (x2, y1, x2, y2)]
    return CostPlot(points, steps, _time_ticks(left, right), _protection_ticks(low, high))


def _place_label(
    x: float, y: float, letters: int, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, str]:
    """Return where a label overlaps nothing that is placed already, as well as it can."""
    px, py, width = x * NOMINAL_WIDTH / 100, y * NOMINAL_HEIGHT / 100, letters * LETTER_WIDTH
    options = []
    for dy in (0, -14, 14, -24, 24):
        options += [(px + DOT, py + dy, "start"), (px - DOT - width, py + dy, "end")]
    best = None
    for left, middle, anchor in options:
        box = (left, middle - LABEL_HEIGHT / 2, left + width, middle + LABEL_HEIGHT / 2)
        overlap = sum(_shared_area(box, other) for other in taken)
        overlap += 1000 * (box[0] < 0) + 1000 * (box[2] > NOMINAL_WIDTH)
        overlap += 1000 * (box[1] < 0) + 1000 * (box[3] > NOMINAL_HEIGHT)
        if best is None or overlap < best[0]:
            best = (overlap, box, anchor)
    assert best is not None
    _, box, anchor = best
    taken.append(box)
    offset = DOT if anchor == "start" else -DOT
    return float(offset), round((box[1] + box[3]) / 2 - py + 4, 1), anchor


def _shared_area(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


TIMES = (1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3600, 36000, 360000)
FINE_TIMES = (*TIMES, 3e-3, 3e-2, 0.3, 3, 30, 180, 1800, 10800, 108000)
"""Marks of the axis of time in seconds: the usual ones, and those of an axis with fewer than two of them."""


def _time_ticks(left: float, right: float) -> list[tuple[float, str]]:
    def within(times: Sequence[float]) -> list[float]:
        return [seconds for seconds in times if left <= math.log10(seconds) <= right]

    times = within(TIMES) if len(within(TIMES)) > 1 else within(FINE_TIMES)
    return [
        (round(100 * (math.log10(seconds) - left) / (right - left), 2), _format_tick(seconds))
        for seconds in times
    ]


def _format_tick(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s" if seconds >= 0.1 else f"{1000 * seconds:g} ms"


def _protection_ticks(low: float, high: float) -> list[tuple[float, str]]:
    step = 0.2 if high - low < 2.5 else 1.0
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [(round(100 * (high - n * step) / (high - low), 2), f"{n * step:z.1f}") for n in numbers]
