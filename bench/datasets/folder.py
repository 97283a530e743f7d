"""Any folder of images with a table of labels."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import pairwise
from pathlib import Path, PurePath
from stat import S_ISREG
from typing import Annotated, ClassVar, Final

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.datasets.data_root import describe_missing_files, name_unreadable_file, require_files
from bench.datasets.decoding import DecodeSettings, File
from bench.datasets.labeled_images import check_crop, load_labeled_images
from bench.datasets.splits import draw_test_rows
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import MISSING, Augmentation, Kind, Progress, Recipe, ignore_progress

TABLE: Final = "labels.csv"
SPLIT: Final = "split"
"""The column with the split of each image."""

SPLIT_NAMES: Final = ("train", "test")

MAX_CLASSES: Final = 20
"""Integers with more values than this are a quantity, not classes."""

CLASS_QUANTILES: Final = (0.2, 0.4, 0.6, 0.8)
"""Quantiles that divide a quantity into classes."""

BOOLEANS: Final = (("false", "true"), ("no", "yes"))
"""Pairs of words for which upper and lower case do not matter."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Folder:
    """A folder of JPEG and PNG images with a table of labels, one task per column.

    The first line of the table, ``labels.csv``, names the columns. The first column holds the path of the
    image below the folder. Every other column is a task: two different values make a binary task; every word
    is a class; integers with at most 20 different values are classes in their order; other numbers are
    divided into five classes at the quantiles of the training rows. An empty cell is a missing label. A
    column ``split`` with ``train`` or ``test`` in every row sets the split; without it the split is random.
    Rows with a missing or damaged image, and columns with a single value, are left out, with one warning that
    names them. Copies of an image are kept: `bench data check` counts those that are in both splits.

    Not from a paper: the training recipe is the paper's for faces.

    Attributes:
        path: the folder, below the data root.
        size: side in px to which images are resized; the whole image is scaled to this square.
        crop: side in px of the random crop; None: 128/140 of the size, as in the paper for faces.
        flip: random flips; false if left and right matter, as for text.
        limit: number of images to use, in proportion from each split, drawn with ``split_seed``; None: all.
        test_fraction: share of the images in the test split, if no column sets it.
        split_seed: seed of that split and of ``limit``.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe()
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    path: str = "images"
    size: Annotated[int, Ge(8)] = 140
    crop: Annotated[int, Ge(8)] | None = None
    flip: bool = True
    limit: Annotated[int, Ge(2)] | None = None
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    split_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if not _is_below(self.path):
            raise BenchError(f"dataset 'folder': path = {self.path!r} is not below the data root")
        check_crop("folder", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        table = str(PurePath(self.path, TABLE))
        return describe_missing_files("folder", root, f"{table} and the images it names", escape(table))

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/PATH/labels.csv``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing, the table is malformed or the cache cannot be used.
        """
        folder = require_files(self.missing(root), root) / self.path
        table = read_table(folder / TABLE)
        files = list(_existing_files(folder, table.cells.index))
        if not files:
            raise BenchError(f"none of the images that {folder / TABLE} names is in {folder}")
        rows = table.cells.loc[sorted(file.name for file in files)]
        is_test = self._test_rows(table, rows)
        tasks, labels, notes = _make_tasks(table, rows.drop(columns=SPLIT, errors="ignore"), ~is_test)
        return load_labeled_images(
            cache,
            "folder",
            folder,
            files=files,
            missing=table.cells.index.difference(rows.index),
            labels=labels,
            tasks=tasks,
            is_test=is_test,
            limit=self.limit,
            seed=self.split_seed,
            decode=DecodeSettings((self.size, self.size)),
            augmentation=Augmentation(self.crop or round(self.size * 128 / 140), self.flip),
            notes=notes,
            progress=progress,
        )

    def _test_rows(self, table: "LabelTable", rows: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows [n] are the test split."""
        if SPLIT in rows:
            splits = rows[SPLIT].str.lower()
            for name, split in splits[~splits.isin(SPLIT_NAMES)].items():
                raise table.cell_error(str(name), SPLIT, f"{split!r} is neither train nor test")
            return (splits == "test").to_numpy()
        return draw_test_rows(
            "folder", rows.index.to_series(name="images"), self.test_fraction, self.split_seed
        )


@dataclass(frozen=True, eq=False)
class LabelTable:
    """A table of labels.

    Attributes:
        path: its file.
        cells: text without blanks at its ends; one row per image, its index.
        lines: image → line number.
    """

    path: Path
    cells: pd.DataFrame
    lines: dict[str, int]

    def cell_error(self, name: str, column: str, problem: str) -> BenchError:
        """Return the error about an image's cell."""
        return BenchError(f"{self.path}, line {self.lines[name]}, column {column!r}: {problem}")


def read_table(path: Path) -> LabelTable:
    """Read a CSV file with the names of the columns in the first line and images in the first column.

    Raises:
        BenchError: naming the line that is malformed, repeats an image or names one outside the folder.
    """
    lines: dict[str, int] = {}
    rows = []
    try:
        with name_unreadable_file(path), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = _parse_header(path, next(reader, []))
            for row in filter(None, reader):
                name = _parse_image(path, reader.line_num, row, len(header))
                if name in lines:
                    where = f"{path}, line {reader.line_num}"
                    raise BenchError(f"{where}: {name!r} is already in line {lines[name]}")
                lines[name] = reader.line_num
                rows.append([cell.strip() for cell in row[1:]])
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not UTF-8 text; save it with this encoding") from error
    except csv.Error as error:
        raise BenchError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise BenchError(f"{path} names no image")
    return LabelTable(path, pd.DataFrame(rows, index=list(lines), columns=header[1:], dtype=object), lines)


def _parse_header(path: Path, row: Sequence[str]) -> list[str]:
    """Return the names of the columns, `SPLIT` in lower case."""
    header = [SPLIT if cell.strip().lower() == SPLIT else cell.strip() for cell in row]
    if len(header) < 2:
        raise BenchError(f"{path}, line 1: it needs a column of images, a comma and a column of labels")
    for number, name in enumerate(header, 1):
        if not name or _CONTROL.search(name):
            raise BenchError(f"{path}, line 1: column {number} has no name")
        if name in header[: number - 1]:
            raise BenchError(f"{path}, line 1: there are two columns {name!r}")
    return header


def _parse_image(path: Path, line: int, row: Sequence[str], columns: int) -> str:
    """Return the normalized path of a row's image."""
    if len(row) != columns:
        raise BenchError(f"{path}, line {line}: {len(row)} cells, but the first line has {columns}")
    if any(map(_CONTROL.search, row)):
        raise BenchError(f"{path}, line {line}: it has a control character")
    name = row[0].strip()
    if not name or not _is_below(name):
        raise BenchError(f"{path}, line {line}: {name!r} is not the path of an image below its folder")
    return PurePath(name).as_posix()


def _is_below(path: str) -> bool:
    """Return whether a path is relative and stays below its folder."""
    return not PurePath(path).anchor and ".." not in PurePath(path).parts and "\0" not in path


def _existing_files(folder: Path, names: Iterable[str]) -> Iterator[File]:
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        if S_ISREG(status.st_mode):
            yield File(name, status.st_size, status.st_mtime_ns)


def _make_tasks(
    table: LabelTable, rows: pd.DataFrame, is_train: NDArray[np.bool_]
) -> tuple[tuple[Classification, ...], pd.DataFrame, list[str]]:
    """Return a task and a column of classes for every usable column, and a note on every other one.

    Args:
        table: the table of the rows.
        rows: the cells of the images that are used.
        is_train: which rows [n] are for training.
    """
    tasks, labels, notes = [], {}, []
    for column in map(str, rows):
        try:
            names, classes = _read_classes(table, rows[column], is_train)
        except _UnusableColumnError as error:
            notes.append(f"column {column!r} is left out: {error}")
            continue
        tasks.append(Classification(column, names))
        labels[column] = classes
    if not tasks:
        reason = "; ".join(notes) or "it has only images and the split"
        raise BenchError(f"{table.path} has no column to learn: {reason}")
    return tuple(tasks), pd.DataFrame(labels, index=rows.index), notes


class _UnusableColumnError(Exception):
    """A column that cannot be a task; the message says why."""


def _read_classes(
    table: LabelTable, cells: pd.Series, is_train: NDArray[np.bool_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of a column's classes, and the class of every row [n]."""
    labeled = (cells != "").to_numpy()
    texts = cells[labeled]
    if texts.nunique() < 2:
        raise _UnusableColumnError("all its labels are the same" if len(texts) else "it is empty")
    classes = np.full(len(cells), MISSING, np.int64)
    numbers = _parse_numbers(table, texts)
    if numbers is None:
        names, classes[labeled] = _classify_words(texts)
    else:
        names, classes[labeled] = _classify_numbers(numbers, is_train[labeled])
    return names, classes


def _parse_numbers(table: LabelTable, texts: pd.Series) -> NDArray[np.float64] | None:
    """Return a column's numbers, None if a cell is not a number."""
    try:
        numbers = texts.to_numpy(np.float64)
    except ValueError:
        return None
    for name, text in texts[~np.isfinite(numbers)].items():
        problem = f"{text!r} is not a finite number; leave the cell empty if the label is missing"
        raise table.cell_error(str(name), str(texts.name), problem)
    return numbers


def _classify_words(texts: pd.Series) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    lowered = texts.str.lower()
    if tuple(sorted(lowered.unique())) in BOOLEANS:
        texts = lowered
    words = pd.Categorical(texts)
    if len(texts) == len(words.categories) > MAX_CLASSES:
        raise _UnusableColumnError("no value occurs twice")
    return tuple(words.categories), words.codes.astype(np.int64)


def _classify_numbers(
    numbers: NDArray[np.float64], is_train: NDArray[np.bool_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    values = np.unique(numbers)
    are_integers = np.array_equal(values, values.round())
    if len(values) == 2 or (are_integers and len(values) <= MAX_CLASSES):
        return tuple(map(_format_number, values)), np.searchsorted(values, numbers)
    known = numbers[is_train]
    if not len(known):
        raise _UnusableColumnError("it has no number in the training rows")
    edges = np.unique(np.quantile(known, CLASS_QUANTILES, method="lower"))
    edges = edges[edges < known.max()]
    if not len(edges):
        raise _UnusableColumnError("nearly all its numbers are the same")
    between = [f"{_format_number(low)} to {_format_number(high)}" for low, high in pairwise(edges)]
    names = (f"up to {_format_number(edges[0])}", *between, f"over {_format_number(edges[-1])}")
    return names, np.searchsorted(edges, numbers)


def _format_number(number: float) -> str:
    return f"{number:.15g}"
