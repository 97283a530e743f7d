"""Tables and paragraphs that fit a terminal; whole lines where the output is a file or a pipe."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output goes to; None if it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_table(
    rows: Sequence[Sequence[Any]],
    headers: Sequence[str],
    width: int | None = None,
    *,
    right: Sequence[int] = (),
    style: str = "github",
) -> str:
    """Return a table as text.

    Args:
        rows: the cells of every row; None is an empty cell.
        headers: one per column; none for a table without a head.
        width: of the terminal, to which cells are wrapped; None: every row is one line, whatever its length.
        right: the columns that are right-aligned.
        style: one of tabulate's formats, if there is no width.
    """
    from tabulate import tabulate

    columns = range(len(headers or (rows[0] if rows else ())))
    align = ["right" if column in right else "left" for column in columns]
    if width is None:
        return tabulate(rows, headers, style, disable_numparse=True, colalign=align if rows else None)
    head = [list(headers)] if headers else []
    texts = [*head, *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    lines = [[line for row in texts for line in row[column].split("\n")] for column in columns]
    widths = _fit_widths(lines, width - 2 * (len(columns) - 1))
    shown = [list(map(_fill_lines, row, widths)) for row in texts]
    # tabulate would put two more blanks beside a head, for which there may be no room.
    shown[len(head) : len(head)] = [["-" * each for each in widths] for _ in head]
    table = tabulate(shown, tablefmt="plain", disable_numparse=True, colalign=align)
    return "\n".join(line.rstrip() for line in table.split("\n"))


def _fit_widths(lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the widths of columns with these lines: the widest are narrowed until all fit into the room.

    A column is narrower than its longest word only if all words do not fit either.
    """
    widths = [max(map(len, column), default=0) for column in lines]
    words = [max((len(word) for line in column for word in line.split()), default=0) for column in lines]
    while sum(widths) > max(room, len(widths)):
        above = [place for place in range(len(widths)) if widths[place] > words[place]] or range(len(widths))
        widths[max(above, key=widths.__getitem__)] -= 1
    return widths


def fill_paragraphs(text: str, width: int | None) -> str:
    """Return a text with its paragraphs wrapped to a width; None: as it is.

    Paragraphs with lines that are indented, or items of a list, keep their lines; long ones are wrapped.
    """
    if width is None:
        return text
    return "\n\n".join(_fill_paragraph(paragraph, width) for paragraph in text.split("\n\n"))


def _fill_paragraph(paragraph: str, width: int) -> str:
    lines = paragraph.split("\n")
    keeps_lines = any(line.startswith((" ", "- ", "* ")) for line in lines)
    return _fill_lines(paragraph if keeps_lines else " ".join(lines), width)


def _fill_lines(text: str, width: int) -> str:
    """Return a text with every line wrapped to a width, with the indentation that it begins with."""
    filled = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        filled.append(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False))
    return "\n".join(filled)
