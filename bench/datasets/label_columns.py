"""What the columns of a label table are: numbers, words, classes and missing labels, as pandas reads them.

A cell is missing if it is empty or has one of the words that `pandas.read_csv` documents for ``na_values``.
A column is numeric if `pandas.to_numeric` reads every other cell: then ``07``, ``7`` and ``7.0`` are one
number. Other columns have words, which differ if their spelling does.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.datasets.label_table import LabelTable
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import MISSING

MAX_CLASSES: Final = 20
"""Integers with more values than this are a quantity, not classes."""

CLASS_QUANTILES: Final = (0.2, 0.4, 0.6, 0.8)
"""Quantiles that divide a quantity into classes."""

BOOLEANS: Final = (("false", "true"), ("no", "yes"))
"""Pairs of words for which upper and lower case do not matter."""

MISSING_WORDS: Final = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Cells without a label, by the documentation of ``pandas.read_csv``."""

_MAX_NAMED: Final = 3


class LabelColumns(NamedTuple):
    """The columns of a table as tasks.

    Attributes:
        tasks: one per usable column.
        labels: the class of every row, in one column per task.
        decisions: a sentence on every usable column: what it was taken for.
        omissions: a sentence on every other column.
    """

    tasks: tuple[Classification, ...]
    labels: pd.DataFrame
    decisions: list[str]
    omissions: list[str]


class _Column(NamedTuple):
    """A column of classes.

    Attributes:
        names: of the classes.
        classes: of the rows with a label [n].
        decision: what the cells were taken for.
    """

    names: tuple[str, ...]
    classes: NDArray[np.int64]
    decision: str


class _UnusableColumnError(Exception):
    """A column that cannot be a task; the message says why."""


def read_columns(table: LabelTable, rows: pd.DataFrame, is_train: NDArray[np.bool_]) -> LabelColumns:
    """Return what the columns of a table are.

    Args:
        table: the table of the rows.
        rows: the cells of the images that are used.
        is_train: which rows [n] are for training.

    Raises:
        BenchError: if there is no usable column.
    """
    tasks, labels, decisions, omissions = [], {}, [], []
    for column in map(str, rows):
        cells = rows[column]
        labeled = ~cells.isin(MISSING_WORDS).to_numpy()
        try:
            names, classes, decision = _classify(table, cells[labeled], is_train[labeled])
        except _UnusableColumnError as error:
            omissions.append(f"column {column!r} is left out: {error}")
            continue
        tasks.append(Classification(column, names))
        labels[column] = np.full(len(cells), MISSING, np.int64)
        labels[column][labeled] = classes
        decisions.append(f"column {column!r}: {decision}{_describe_missing(cells[~labeled])}")
    if not tasks:
        reason = "; ".join(omissions) or "it has only images and the split"
        raise BenchError(f"{table.path} has no column to learn: {reason}")
    return LabelColumns(tuple(tasks), pd.DataFrame(labels, index=rows.index), decisions, omissions)


def _classify(table: LabelTable, texts: pd.Series, is_train: NDArray[np.bool_]) -> _Column:
    """Return the classes of a column's cells, of which none is missing."""
    if texts.empty:
        raise _UnusableColumnError("it has no label")
    numbers = _parse_numbers(table, texts)
    return _classify_words(texts) if numbers is None else _classify_numbers(texts, numbers, is_train)


def _parse_numbers(table: LabelTable, texts: pd.Series) -> NDArray[Any] | None:
    """Return a column's numbers, integers exactly; None if pandas does not read all cells as numbers."""
    try:
        numbers = pd.to_numeric(texts).to_numpy()
    except ValueError:
        return None
    if numbers.dtype.kind not in "iuf":  # integers beyond 64 bits, which stay as they are written
        return None
    if numbers.dtype.kind == "f":
        numbers = texts.to_numpy(np.float64)  # pandas may be wrong in the last bit
    for name, text in texts[~np.isfinite(numbers)].items():
        problem = f"{text!r} is not a finite number; leave the cell empty if the label is missing"
        raise table.cell_error(str(name), str(texts.name), problem)
    return numbers


def _classify_words(texts: pd.Series) -> _Column:
    lowered = texts.str.lower()
    is_boolean = tuple(sorted(lowered.unique())) in BOOLEANS
    words = pd.Categorical(lowered if is_boolean else texts)
    names = tuple(map(str, words.categories))
    if len(names) == 1:
        raise _UnusableColumnError(f"all its labels are the same, {names[0]!r}")
    if len(texts) == len(names) > MAX_CLASSES:
        raise _UnusableColumnError("no value occurs twice")
    classes = words.codes.astype(np.int64)
    kind = "truth values" if is_boolean else "words"
    lowered_names = pd.Series(names).str.lower()
    alike = sorted(pd.Series(names)[lowered_names.duplicated(keep=False)], key=str.lower)
    remark = f"; {_name_some(alike)} are different classes" if alike else ""
    return _Column(
        names, classes, f"{kind}, {len(names)} classes{_describe_spellings(texts, classes)}{remark}"
    )


def _classify_numbers(texts: pd.Series, numbers: NDArray[Any], is_train: NDArray[np.bool_]) -> _Column:
    values, classes = np.unique(numbers, return_inverse=True)
    if len(values) == 1:
        raise _UnusableColumnError(f"all its labels are the same number, {_format_number(values[0])}")
    are_integers = np.array_equal(values, values.round())
    if len(values) == 2 or (are_integers and len(values) <= MAX_CLASSES):
        names = tuple(map(_format_number, values))
        decision = f"numbers, {len(names)} classes in their order{_describe_spellings(texts, classes)}"
        return _Column(names, classes.astype(np.int64), decision)
    return _classify_quantity(numbers.astype(np.float64), len(values), is_train)


def _classify_quantity(numbers: NDArray[np.float64], distinct: int, is_train: NDArray[np.bool_]) -> _Column:
    known = numbers[is_train]
    if not len(known):
        raise _UnusableColumnError("it has no number in the training rows")
    edges = np.unique(np.quantile(known, CLASS_QUANTILES, method="lower"))
    edges = edges[edges < known.max()]
    if not len(edges):
        raise _UnusableColumnError("nearly all its numbers are the same")
    between = [f"{_format_number(low)} to {_format_number(high)}" for low, high in pairwise(edges)]
    names = (f"up to {_format_number(edges[0])}", *between, f"over {_format_number(edges[-1])}")
    decision = f"{distinct} different numbers, {len(names)} classes at quantiles of the training rows"
    return _Column(names, np.searchsorted(edges, numbers), decision)


def _format_number(number: Any) -> str:
    """Return the shortest text that no other number has."""
    is_integer = isinstance(number, np.integer) or (float(number).is_integer() and abs(number) < 2**53)
    return str(int(number)) if is_integer else repr(float(number))


def _describe_spellings(texts: pd.Series, classes: NDArray[np.int64]) -> str:
    """Return a phrase on the first classes with several spellings."""
    class_of = pd.Series(classes, texts.to_numpy()).groupby(level=0).first()
    spellings = [sorted(group.index) for _, group in class_of.groupby(class_of) if len(group) > 1]
    return "".join(f"; {_name_some(group)} are one class" for group in spellings[:_MAX_NAMED])


def _describe_missing(cells: pd.Series) -> str:
    """Return a phrase on the cells without a label."""
    if cells.empty:
        return ""
    words = sorted(word for word in cells.unique() if word)
    empty = "empty, or " if (cells == "").any() else ""
    read_as = f" ({empty}{_name_some(words)})" if words else ""
    return f"; {len(cells)} rows without a label{read_as}"


def _name_some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MAX_NAMED} more" if len(texts) > _MAX_NAMED else ""
    return ", ".join(map(repr, texts[:_MAX_NAMED])) + more
