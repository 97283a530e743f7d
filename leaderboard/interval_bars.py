"""Intervals as bars of characters on a common axis."""

from collections.abc import Sequence
from dataclasses import dataclass

POINT, LINE, FIRST, LAST, MARK = "●─├┤┊"
"""A value, its interval with its two ends, and a mark of the axis."""

LOWEST, HIGHEST = -0.5, 1.5
"""The axis ends here at the latest; what lies beyond is shown by an arrow."""

MARKS = (0.0, 1.0)
"""Values that are marked: no effect, and nothing learned."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its interval, None if unknown."""

    value: float | None
    low: float | None = None
    high: float | None = None


def axis_ends(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return the ends of an axis for estimates, which holds `MARKS`."""
    known = [end for each in estimates for end in (each.value, each.low, each.high) if end is not None]
    return max(LOWEST, min([*MARKS, *known])), min(HIGHEST, max([*MARKS, *known]))


def draw_axis(ends: tuple[float, float], width: int) -> str:
    """Return the labels of `MARKS` at their places."""
    cells = [" "] * width
    for mark in MARKS:
        cells[_place(mark, ends, width)] = f"{mark:.0f}"
    return "".join(cells)


def draw_interval(estimate: Estimate, ends: tuple[float, float], width: int) -> str:
    """Return an estimate as a bar.

    Args:
        estimate: what to draw.
        ends: of the axis.
        width: number of characters.
    """
    cells = [" "] * width
    for mark in MARKS:
        cells[_place(mark, ends, width)] = MARK
    value, low, high = estimate.value, estimate.low, estimate.high
    if low is not None and high is not None:
        first, last = _place(low, ends, width), _place(high, ends, width)
        cells[first : last + 1] = LINE * (last + 1 - first)
        if low >= ends[0]:
            cells[first] = FIRST
        if high <= ends[1]:
            cells[last] = LAST
    if value is not None:
        beyond = "<" if value < ends[0] else ">" if value > ends[1] else POINT
        cells[_place(value, ends, width)] = beyond
    return "".join(cells).rstrip()


def _place(value: float, ends: tuple[float, float], width: int) -> int:
    """Return the place of a value, that of the nearest end if it lies beyond."""
    low, high = ends
    share = (min(max(value, low), high) - low) / (high - low)
    return round(share * (width - 1))
