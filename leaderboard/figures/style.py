"""How all figures look: readable in print, without color and for the color-blind."""

import io
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.text import to_one_line

FONT_SIZE = 7.0
"""Smallest size of a text, in points: what can be read on paper."""

CHARACTER = FONT_SIZE * 0.6 / 72
"""Usual width of a character, in inches."""

MAX_NAMES = 1.6
"""Largest width of a column of names, in inches."""

LINE = 0.17
"""Height of the line of an attack, in inches."""

POISONED, UNPOISONED, FAINT, GRID = "#d55e00", "#000000", "#b9b9b9", "#e6e6e6"

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colors that the color-blind can tell apart (Okabe and Ito, 2008)."""

MARKERS = "osD^vPX<>*h"
LINES = ("-", "--", "-.", ":")

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names of parts may contain a dollar sign
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.titley": 1.0,  # else it is computed, which takes long
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "svg.hashsalt": "mtlue-bench",  # without it the names inside a file are random
    "pdf.fonttype": 42,  # publishers refuse fonts of type 3
}

_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
"""Format → what is left out of a file: the date and the version of matplotlib would change its bytes."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw as all figures are drawn."""
    with rc_context(_STYLE), warnings.catch_warnings():
        # A name may have characters that the font does not have. They are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def encode_figure(figure: Figure, format_: str) -> bytes:
    """Return the file of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format=format_, dpi=200, metadata=_METADATA[format_])
    return file.getvalue()


def style_of(number: int) -> dict[str, Any]:
    """Return color, marker and line of a series by its number: the first 77 all differ, also in gray."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def shorten(name: str, inches: float) -> str:
    """Return a name that fits in a width: what is too long loses its middle."""
    line, characters = to_one_line(name), max(5, round(inches / CHARACTER))
    if len(line) <= characters:
        return line
    end = (characters - 1) // 2
    return f"{line[: characters - 1 - end]}…{line[len(line) - end :]}"


def label_width(names: Iterable[str], width: float) -> float:
    """Return the width of a column of names in a figure of a width, in inches: no more than a third of it."""
    return min(width / 3, MAX_NAMES, CHARACTER * max(map(len, names), default=0))


def wrap_text(text: str, inches: float) -> str:
    """Return a text in as many lines as it needs in a width."""
    return "\n".join(wrap(text, int(inches / CHARACTER)))


def label_lines(axes: Axes, names: Sequence[str], width: float) -> None:
    """Label the lines of a panel, the first one at the top.

    Args:
        axes: the panel.
        names: one for every line.
        width: of the figure, in inches.
    """
    room = label_width(names, width)
    axes.set_yticks(range(len(names)), [shorten(name, room) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y")


def split_columns(names: Sequence[str], room: float, column: float) -> list[list[str]]:
    """Return the names of columns in as many rows as they need, about as many in each.

    Args:
        names: one for every column.
        room: the width of a row, in inches.
        column: the smallest width of a column, in inches.
    """
    most = max(1, int(room / column))
    rows = math.ceil(len(names) / most)
    length = math.ceil(len(names) / rows)
    return [list(names[start : start + length]) for start in range(0, len(names), length)]
