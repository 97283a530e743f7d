"""How numbers, names and tables are written in markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from bench.text import to_one_line
from leaderboard.scores import Track

NO_VALUE = "–"
"""Shown for a missing value."""


TOO_FEW = "too few seeds"
"""Shown instead of an interval."""

UNFINISHED = "°"
"""Marks an attack whose crafting may be unfinished."""

RANKING_TITLES: dict[Track, str] = {
    "linf": "Ranking",
    "l2": "Ranking, l2 track",
    "unbounded": "Ranking, unbounded track",
}
"""Track → title of its ranking."""


@dataclass(frozen=True)
class Metric:
    """How the field writes a metric.

    Attributes:
        name: its name and unit.
        factor: from the recorded value to the written one.
        decimals: of the written value.
    """

    name: str
    factor: float
    decimals: int


METRICS = {
    "accuracy": Metric("accuracy %", 100, 1),
    "balanced_accuracy": Metric("balanced accuracy %", 100, 1),
    "auroc": Metric("AUROC %", 100, 1),
    "miou": Metric("mIoU %", 100, 1),
    "pixel_accuracy": Metric("pixel accuracy %", 100, 1),
    "absolute_error": Metric("absolute error m", 1, 3),
    "relative_error": Metric("relative error", 1, 3),
    "mean_angle": Metric("mean angle °", 1, 1),
    "median_angle": Metric("median angle °", 1, 1),
    "within_11_25": Metric("within 11.25° %", 100, 1),
    "within_22_5": Metric("within 22.5° %", 100, 1),
    "within_30": Metric("within 30° %", 100, 1),
}
"""Metric → how it is written, in the order of the field."""

MAX_TASK_COLUMNS = 8
"""With more tasks, a table has a row per task: a table of 40 columns is hard to read."""


class Bold(str):
    """Text that is bold in a table."""

    __slots__ = ()


def join_blocks(*blocks: str) -> str:
    """Return blocks of markdown with an empty line between them; empty blocks are left out."""
    return "\n\n".join(block for block in blocks if block)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as a markdown table: text is escaped, numbers are right-aligned.

    Columns in which every value is missing are left out.

    Args:
        rows: column → text.
    """
    columns = [name for name in rows[0] if any(row[name] != NO_VALUE for row in rows)]
    aligned = ["right" if all(_is_number(str(row[name])) for row in rows) else "left" for name in columns]
    body = [[_format_cell(row[column]) for column in columns] for row in rows]
    headers = [escape_markdown(column) for column in columns]
    return tabulate(body, headers=headers, tablefmt="pipe", colalign=aligned, disable_numparse=True)


def cross_table(
    cells: Mapping[tuple[str, str], str], *, columns: str = "task", transposed: bool = False
) -> str:
    """Return a markdown table with one row per attack, or with one column per attack if transposed.

    Args:
        cells: (attack, column) → text, in the order of rows and columns; a missing one becomes `NO_VALUE`.
        columns: what the columns are, which is the header of the first column if transposed.
        transposed: whether rows and columns are exchanged.
    """
    if transposed:
        cells = {(column, attack): text for (attack, column), text in cells.items()}
    rows, names = (dict.fromkeys(labels) for labels in zip(*cells, strict=True))
    corner = columns if transposed else "attack"
    return markdown_table(
        [{corner: row} | {name: cells.get((row, name), NO_VALUE) for name in names} for row in rows]
    )


_MEANINGFUL = re.compile(
    r"[\\|<>*`~$]"  # code, tables, HTML, emphasis, formulas
    r"|\](?=[(\[:])"  # links and images
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis: only at the beginning or the end of a word
    r"|&(?=#?\w+;)"  # characters by name or number
    r"|:(?=//)|(?<=www)\.",  # addresses that become links by themselves
    re.IGNORECASE,
)
"""Characters with a meaning in markdown. No other is escaped, since boards are also read as they are."""


def escape_markdown(text: str) -> str:
    """Return text as one printable line in which no character has a meaning in markdown."""
    return _MEANINGFUL.sub(r"\\\g<0>", " ".join(to_one_line(text).split()))


def escape_formula(text: Any) -> Any:
    """Return a text that no spreadsheet takes for a formula, on one line; other values as they are."""
    if not isinstance(text, str):
        return text
    line = to_one_line(text)
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line


def format_protection(value: float | None, spread: float | None = None) -> str:
    """Return a protection with two decimals, and its spread over seeds if there is one."""
    if is_missing(value):
        return NO_VALUE
    return f"{value:z.2f}" if is_missing(spread) else f"{value:z.2f} ± {spread:.2f}"


def with_protection(text: str, value: float | None) -> str:
    """Return a text followed by a protection in parentheses, or the text alone if that is missing."""
    return text if is_missing(value) else f"{text} ({format_protection(value)})"


def format_number(value: float | None) -> str:
    """Return a measured quantity with about three significant digits."""
    if value is None or is_missing(value):
        return NO_VALUE
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.1f}k"
    return f"{value:z.{1 if abs(value) >= 10 else 2}f}" if abs(value) < 100 else f"{value:.0f}"


def format_percent(value: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return NO_VALUE if value is None or is_missing(value) else f"{100 * value:z.1f}"


def format_score(value: float | None, metric: str, decimals: int | None = None) -> str:
    """Return the value of a metric in the unit of `metric_label`, with its usual decimals unless given."""
    known = METRICS.get(metric)
    if known is None or value is None or is_missing(value):
        return format_number(value)
    return f"{known.factor * value:z.{known.decimals if decimals is None else decimals}f}"


def metric_label(metric: str) -> str:
    """Return a metric's name with its unit."""
    return METRICS[metric].name if metric in METRICS else metric.replace("_", " ")


def metric_order(metric: str) -> tuple[int, str]:
    """Return the key for sorting metrics: in the order of the field, unknown ones last."""
    return (list(METRICS).index(metric) if metric in METRICS else len(METRICS)), metric


def format_with_spec(value: float | None, spec: str) -> str:
    """Return a value in a format such as ``.3f``."""
    return NO_VALUE if is_missing(value) else f"{value:{spec}}"


def format_count(amount: int, noun: str) -> str:
    """Return a number and its noun, in the plural if needed."""
    return f"{amount} {noun}" + ("" if amount == 1 else "s")


def is_missing(value: object) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _format_cell(value: object) -> str:
    text = escape_markdown(str(value))
    return f"**{text}**" if isinstance(value, Bold) else text


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(rf"({NO_VALUE}|[-+±]?\d)[^a-zA-Z]*[kM]?", text))
