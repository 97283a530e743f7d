"""How numbers, names and tables are written in markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

NO_VALUE = "–"
"""Stands for a value that there is not."""


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
"""Metric → how it is written, in the order in which the field lists them."""

DAGGER = "†"
"""Marks an attack of the unbounded track in tables that it shares with others."""

MAX_TASK_COLUMNS = 8
"""A dataset with more tasks has them as rows: a table of 40 columns cannot be read."""


class Bold(str):
    """A text that stands out in a table."""

    __slots__ = ()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as a markdown table, escaped, with columns of numbers to the right."""
    columns = list(rows[0])
    aligned = ["right" if all(_is_number(str(row[name])) for row in rows) else "left" for name in columns]
    body = [[_written(row[column]) for column in columns] for row in rows]
    headers = [escape_markdown(column) for column in columns]
    return tabulate(body, headers=headers, tablefmt="pipe", colalign=aligned, disable_numparse=True)


def escape_markdown(text: str) -> str:
    """Return text in one line with the signs that markdown would read as its own defused."""
    return re.sub(r"([\\|<>*`])", r"\\\1", " ".join(text.split()))


def format_protection(value: float | None, spread: float | None = None) -> str:
    """Return a protection with two decimals, and its spread over seeds where there is one."""
    if is_missing(value):
        return NO_VALUE
    return f"{value:z.2f}" if is_missing(spread) else f"{value:z.2f} ± {spread:.2f}"


def format_number(value: float | None) -> str:
    """Return a measured quantity with about three digits."""
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
    """Return what metrics are to be sorted by: the field's order, then the alphabet."""
    return (list(METRICS).index(metric) if metric in METRICS else len(METRICS)), metric


def format_integer(value: float | None) -> str:
    """Return a quantity without decimals."""
    return NO_VALUE if is_missing(value) else f"{value:.0f}"


def format_steps(value: float | None) -> str:
    """Return a change of pixels in steps of 1/255."""
    return NO_VALUE if is_missing(value) else f"{value:.3g}"


def format_count(amount: int, what: str) -> str:
    """Return a number of things, in the plural where it has to be."""
    return f"{amount} {what}" + ("" if amount == 1 else "s")


def is_missing(value: object) -> bool:
    """Return whether a value is not there: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _written(value: object) -> str:
    text = escape_markdown(str(value))
    return f"**{text}**" if isinstance(value, Bold) else text


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(rf"({NO_VALUE}|[-+±]?\d)[^a-zA-Z]*[kM]?", text))


def transpose_rows(lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """Turn a row per ``attack`` with a column per task into a row per task with a column per attack."""
    columns = [column for column in lines[0] if column != "attack"]
    return [{"task": column, **{line["attack"]: line[column] for line in lines}} for column in columns]


def drop_empty_columns(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows without the columns in which every value is missing."""
    empty = {column for column in rows[0] if all(row[column] == NO_VALUE for row in rows)}
    return [{column: text for column, text in row.items() if column not in empty} for row in rows]
