"""A table of labels as a CSV file: the image of each row, and the text of each cell."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import pandas as pd

from bench.datasets.data_root import name_unreadable_file
from bench.datasets.image_files import IMAGE_SUFFIXES
from bench.errors import BenchError

SPLIT: Final = "split"
"""The column with the split of each image."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


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
    if header and _is_image(path.parent, header[0]):
        raise BenchError(
            f"{path}, line 1: {header[0]!r} is an image, but the first line must name the columns;"
            " add a line above it, such as: image,label"
        )
    if len(header) < 2:
        raise BenchError(f"{path}, line 1: it needs a column of images, a comma and a column of labels")
    for number, name in enumerate(header, 1):
        if not name or _CONTROL.search(name):
            raise BenchError(f"{path}, line 1: column {number} has no name")
        if name in header[: number - 1]:
            raise BenchError(f"{path}, line 1: there are two columns {name!r}")
    return header


def _is_image(folder: Path, name: str) -> bool:
    """Return whether the name of a column is that of an image: then the table has no header."""
    is_file = bool(name) and is_below(name) and (folder / name).is_file()
    return is_file or name.lower().endswith(IMAGE_SUFFIXES)


def _parse_image(path: Path, line: int, row: Sequence[str], columns: int) -> str:
    """Return the normalized path of a row's image."""
    if len(row) != columns:
        raise BenchError(f"{path}, line {line}: {len(row)} cells, but the first line has {columns}")
    if any(map(_CONTROL.search, row)):
        raise BenchError(f"{path}, line {line}: it has a control character")
    name = row[0].strip()
    if not name or not is_below(name):
        raise BenchError(f"{path}, line {line}: {name!r} is not the path of an image below its folder")
    return PurePath(name).as_posix()


def is_below(path: str) -> bool:
    """Return whether a path is relative and stays below its folder."""
    return not PurePath(path).anchor and ".." not in PurePath(path).parts and "\0" not in path
