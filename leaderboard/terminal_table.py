"""Tables fitted to the width of a terminal. Standard library and rich only."""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich.cells import cell_len, chop_cells
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bench.text import to_one_line
from leaderboard.formatting import NO_VALUE

GAP = 2
"""Blanks between two columns."""

_ASCII = str.maketrans("–°●─├┤┊…δσ±", "-*o-||:.ds~")
"""What stands for the symbols of tables on a terminal that knows ASCII only."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: its header; may have several lines.
        cells: a text per row.
        importance: of columns for which there is no room, the least important ones are left out first,
            those of the same importance together.
        least: the width to which it can shrink, by breaking its texts; None if it cannot.
        justify: side of a text.
        style: of rich.
    """

    head: str
    cells: Sequence[str]
    importance: int
    least: int | None = None
    justify: Literal["left", "right"] = "left"
    style: str = ""

    @property
    def most(self) -> int:
        """The width that is enough for all texts."""
        lines = [line for text in (self.head, *self.cells) for line in text.split("\n")]
        return max(map(cell_len, lines))

    @property
    def has_values(self) -> bool:
        """Whether any text is more than a sign for a missing value."""
        return any(text not in ("", NO_VALUE) for text in self.cells)

    def draw(self, width: int) -> tuple[str, Sequence[str]]:
        """Return header and texts at a width."""
        head = [line for text in self.head.split("\n") for line in break_name(text, width)]
        return "\n".join(head), ["\n".join(break_name(text, width)) for text in self.cells]


@dataclass(frozen=True)
class DrawnColumn:
    """A column that is drawn anew for every width.

    Attributes:
        draw: width → header and a text per row.
        importance: as of `Column`.
        least: the smallest width at which it can be drawn.
        most: the largest width that makes it better.
        style: of rich.
    """

    draw: Callable[[int], tuple[str, Sequence[str]]]
    importance: int
    least: int
    most: int
    style: str = ""
    justify: Literal["left", "right"] = "left"
    has_values = True


def fit_table(columns: Sequence[Column | DrawnColumn], width: int) -> Table:
    """Return a table of at most a width: columns shrink, and the least important ones are left out.

    Columns without any value are left out, too. The last column that is left may be broken anywhere.
    """
    kept = [column for column in columns if column.has_values]
    while len(kept) > 1 and _table_width([_least_width(column) for column in kept]) > width:
        least = min(column.importance for column in kept)
        kept = [column for column in kept if column.importance > least] or kept[:1]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    drawn = []
    for column, size in zip(kept, _share_width(kept, width), strict=True):
        head, cells = column.draw(size)
        drawn.append([Text(cell, column.style) for cell in cells])
        table.add_column(
            Text(head), width=size, justify=column.justify, no_wrap=True, overflow="fold", vertical="top"
        )
    for row in zip(*drawn, strict=True):
        table.add_row(*row)
    return table


def _least_width(column: Column | DrawnColumn) -> int:
    return column.most if column.least is None else min(column.least, column.most)


def _table_width(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _share_width(columns: Sequence[Column | DrawnColumn], width: int) -> list[int]:
    """Return the widths of columns: the rest is dealt out in turn to those that can use it."""
    widths = [min(_least_width(column), width) for column in columns]
    while True:
        growing = [place for place, column in enumerate(columns) if widths[place] < column.most]
        if not growing or _table_width(widths) + len(growing) > width:
            break
        for place in growing:
            widths[place] += 1
    for place in growing[: max(0, width - _table_width(widths))]:
        widths[place] += 1
    return widths


def break_name(name: str, width: int) -> list[str]:
    """Return a name as printable lines of at most a width, broken between its parts if possible."""
    lines = [""]
    for piece in re.findall(r"[^\s,(+/-]*[\s,(+/-]?", to_one_line(name)):
        if cell_len(lines[-1] + piece.rstrip()) <= width:
            lines[-1] += piece
            continue
        lines += chop_cells(piece, width)
    return [line.rstrip() for line in lines if line.strip()] or [""]


def open_console(file: TextIO | None = None) -> Console:
    """Return a console of the terminal's width, which rich takes for 80 if the terminal is a simple one.

    Args:
        file: where to print; standard output by default.
    """
    columns, lines = shutil.get_terminal_size()
    return Console(file=file or sys.stdout, width=columns, height=lines, highlight=False)


def print_fitted(console: Console, *blocks: RenderableType) -> None:
    """Print blocks one below the other; on a terminal that knows ASCII only, with signs of ASCII.

    A text that must not be wrapped (``no_wrap``) may be longer than the width.
    """
    with console.capture() as captured:
        for block in blocks:
            console.print(block, soft_wrap=isinstance(block, Text) and bool(block.no_wrap))
    lines = (line.rstrip(" ") for line in captured.get().split("\n"))
    text = "\n".join(lines)
    console.file.write(text.translate(_ASCII) if console.options.ascii_only else text)
    console.file.flush()
