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
from bench.datasets.decoding import Decode, File
from bench.datasets.labeled_images import (
    check_crop,
    draw_test_rows,
    load_labeled_images,
    missing_files_sentence,
    omissions,
    require_files,
    warn_of_omissions,
)
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import MISSING, Augmentation, Kind, Progress, Recipe, ignore_progress

TABLE: Final = "labels.csv"
SPLIT: Final = "split"
"""The column that says which split an image is in."""

PARTS: Final = ("train", "test")

MOST_CLASSES: Final = 20
"""Whole numbers with more values than this are a quantity, not classes."""

FIFTHS: Final = (0.2, 0.4, 0.6, 0.8)
"""Quantiles at which a quantity falls into classes."""

BOOLEANS: Final = (("false", "true"), ("no", "yes"))
"""Pairs of words that mean the same however they are capitalized."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Folder:
    """A folder of JPEG and PNG images whose labels stand in ``labels.csv``, one task per column.

    The table's first line names the columns. The first column holds the image's path below the folder, every
    other one a task: two different values are a binary task; words are a class each; whole numbers of at most
    20 different values are classes in their order; other numbers fall into five classes at the quantiles of
    the training rows. An empty cell is a label that is missing. A column ``split`` with ``train`` or
    ``test`` in every row decides the split; without it the split is drawn. Rows whose image is missing or
    damaged, and columns with nothing to tell apart, are left out, with one warning that names them.
    Copies of an image are kept: `bench data check` counts those that are in both splits.

    Not from a paper: trained as the paper trains on faces.

    Attributes:
        path: the folder, below the data root.
        size: side in px at which images are kept; the whole image is scaled to this square.
        crop: side in px of the random crop; None: 128/140 of the size, as in the paper for faces.
        flip: flip at random; false where left and right matter, as for text.
        limit: use so many images, of each split its share, drawn with ``split_seed``; None: all.
        test_fraction: part of the images that is the test split where no column says.
        split_seed: seed of that split, and of what ``limit`` leaves.
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
        """Return one sentence on what is not there and where it is expected, None where it is there."""
        table = str(PurePath(self.path, TABLE))
        return missing_files_sentence("folder", root, f"{table} and the images it names", escape(table))

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/PATH/labels.csv``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: when something is missing, the table is malformed or the cache cannot be used.
        """
        folder = require_files(self.missing(root), root) / self.path
        table = read_table(folder / TABLE)
        files = list(_stat(folder, table.cells.index))
        if not files:
            raise BenchError(f"none of the images that {folder / TABLE} names is in {folder}")
        rows = table.cells.loc[sorted(file.name for file in files)]
        test = self._test(table, rows)
        tasks, labels, notes = _tasks(table, rows.drop(columns=SPLIT, errors="ignore"), ~test)
        train_split, test_split, damaged = load_labeled_images(
            cache,
            "folder",
            folder,
            files=files,
            labels=labels,
            test=test,
            limit=self.limit,
            seed=self.split_seed,
            decode=Decode((self.size, self.size)),
            progress=progress,
        )
        skipped = dict.fromkeys(table.cells.index.difference(rows.index), "no such file") | damaged
        if skipped:
            notes.append(omissions(skipped, len(table.cells)))
        warn_of_omissions("folder", notes)
        augmentation = Augmentation(self.crop or round(self.size * 128 / 140), self.flip)
        return MultiTaskData(tasks, train_split, test_split, augmentation, tuple(notes))

    def _test(self, table: "Table", rows: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows [n] are the test split."""
        if SPLIT in rows:
            parts = rows[SPLIT].str.lower()
            for name, part in parts[~parts.isin(PARTS)].items():
                raise table.error(str(name), SPLIT, f"{part!r} is neither train nor test")
            return (parts == "test").to_numpy()
        return draw_test_rows(
            "folder", rows.index.to_series(name="images"), self.test_fraction, self.split_seed
        )


@dataclass(frozen=True, eq=False)
class Table:
    """A table of labels.

    Attributes:
        path: its file.
        cells: text without blanks at its ends, one row per image, its index.
        lines: image → line of the file.
    """

    path: Path
    cells: pd.DataFrame
    lines: dict[str, int]

    def error(self, name: str, column: str, what: str) -> BenchError:
        """Return the error that says what is wrong with an image's cell."""
        return BenchError(f"{self.path}, line {self.lines[name]}, column {column!r}: {what}")


def read_table(path: Path) -> Table:
    """Return the cells of a CSV file whose first line names the columns and whose first column images.

    Raises:
        BenchError: naming the line that is malformed, repeats an image or names one outside of the folder.
    """
    lines: dict[str, int] = {}
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = _header(path, next(reader, []))
            for row in filter(None, reader):
                name = _image(path, reader.line_num, row, len(header))
                if name in lines:
                    where = f"{path}, line {reader.line_num}"
                    raise BenchError(f"{where}: {name!r} is listed already, in line {lines[name]}")
                lines[name] = reader.line_num
                rows.append([cell.strip() for cell in row[1:]])
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not text in UTF-8; save it as such") from error
    except csv.Error as error:
        raise BenchError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise BenchError(f"{path} names no image")
    return Table(path, pd.DataFrame(rows, index=list(lines), columns=header[1:], dtype=object), lines)


def _header(path: Path, row: Sequence[str]) -> list[str]:
    """Return the columns' names, `SPLIT` however it is capitalized."""
    header = [SPLIT if cell.strip().lower() == SPLIT else cell.strip() for cell in row]
    if len(header) < 2:
        raise BenchError(
            f"{path}, line 1: a column of images and one of labels, separated by a comma, are needed"
        )
    for number, name in enumerate(header, 1):
        if not name or _CONTROL.search(name):
            raise BenchError(f"{path}, line 1: column {number} has no name")
        if name in header[: number - 1]:
            raise BenchError(f"{path}, line 1: there are two columns {name!r}")
    return header


def _image(path: Path, line: int, row: Sequence[str], columns: int) -> str:
    """Return the image a row names, its path in its plainest spelling."""
    if len(row) != columns:
        raise BenchError(f"{path}, line {line}: {len(row)} cells, where the first line has {columns}")
    if any(map(_CONTROL.search, row)):
        raise BenchError(f"{path}, line {line}: there is a control character")
    name = row[0].strip()
    if not name or not _is_below(name):
        raise BenchError(f"{path}, line {line}: {name!r} is not the path of an image below its folder")
    return PurePath(name).as_posix()


def _is_below(path: str) -> bool:
    """Return whether a relative path cannot leave the folder it is relative to."""
    return not PurePath(path).anchor and ".." not in PurePath(path).parts and "\0" not in path


def _stat(folder: Path, names: Iterable[str]) -> Iterator[File]:
    """Yield the files that are there."""
    for name in names:
        try:
            found = (folder / name).stat()
        except OSError:
            continue
        if S_ISREG(found.st_mode):
            yield File(name, found.st_size, found.st_mtime_ns)


def _tasks(
    table: Table, rows: pd.DataFrame, train: NDArray[np.bool_]
) -> tuple[tuple[Classification, ...], pd.DataFrame, list[str]]:
    """Return a task and a column of classes for every column that has any, and a note on every other one.

    Args:
        table: where the rows are from.
        rows: the cells of the images that are used.
        train: which rows [n] are for training.
    """
    tasks, labels, notes = [], {}, []
    for column in map(str, rows):
        try:
            names, classes = _classes(table, rows[column], train)
        except _UselessError as error:
            notes.append(f"column {column!r} is left out: {error}")
            continue
        tasks.append(Classification(column, names))
        labels[column] = classes
    if not tasks:
        raise BenchError(f"{table.path} has no column to learn; {'; '.join(notes) or 'it has no other one'}")
    return tuple(tasks), pd.DataFrame(labels, index=rows.index), notes


class _UselessError(Exception):
    """Why a column is no task."""


def _classes(
    table: Table, cells: pd.Series, train: NDArray[np.bool_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of a column's classes, and the class of every row [n]."""
    labeled = (cells != "").to_numpy()
    texts = cells[labeled]
    if texts.nunique() < 2:
        raise _UselessError("all its labels are the same" if len(texts) else "it is empty")
    classes = np.full(len(cells), MISSING, np.int64)
    numbers = _numbers(table, texts)
    if numbers is None:
        names, classes[labeled] = _words(texts)
    else:
        names, classes[labeled] = _quantity(numbers, train[labeled])
    return names, classes


def _numbers(table: Table, texts: pd.Series) -> NDArray[np.float64] | None:
    """Return a column's numbers, None where not all of its cells are."""
    try:
        numbers = texts.to_numpy(np.float64)
    except ValueError:
        return None
    for name, text in texts[~np.isfinite(numbers)].items():
        raise table.error(str(name), str(texts.name), f"{text!r} is no number; leave the cell empty for none")
    return numbers


def _words(texts: pd.Series) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    lowered = texts.str.lower()
    if tuple(sorted(lowered.unique())) in BOOLEANS:
        texts = lowered
    found = pd.Categorical(texts)
    if len(texts) == len(found.categories) > MOST_CLASSES:
        raise _UselessError("no value occurs twice")
    return tuple(found.categories), found.codes.astype(np.int64)


def _quantity(
    numbers: NDArray[np.float64], train: NDArray[np.bool_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    values = np.unique(numbers)
    whole = np.array_equal(values, values.round())
    if len(values) == 2 or (whole and len(values) <= MOST_CLASSES):
        return tuple(map(_spell, values)), np.searchsorted(values, numbers)
    known = numbers[train]
    if not len(known):
        raise _UselessError("it has no number in the training rows")
    edges = np.unique(np.quantile(known, FIFTHS, method="lower"))
    edges = edges[edges < known.max()]
    if not len(edges):
        raise _UselessError("nearly all its numbers are the same")
    between = [f"{_spell(low)} to {_spell(high)}" for low, high in pairwise(edges)]
    names = (f"up to {_spell(edges[0])}", *between, f"over {_spell(edges[-1])}")
    return names, np.searchsorted(edges, numbers)


def _spell(number: float) -> str:
    return f"{number:.15g}"
