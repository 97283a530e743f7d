"""Any folder of images with a table of labels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, ClassVar, Final

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.datasets.data_root import describe_missing_file, no_image_error, require_files
from bench.datasets.decoding import File
from bench.datasets.image_files import DecodeSettings
from bench.datasets.label_columns import read_columns
from bench.datasets.label_table import SPLIT, LabelTable, is_below, read_table
from bench.datasets.labeled_images import check_crop, load_labeled_images
from bench.datasets.splits import draw_test_rows
from bench.errors import BenchError
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

TABLE: Final = "labels.csv"

SPLIT_NAMES: Final = ("train", "test")


@dataclass(frozen=True)
class Folder:
    """A folder of images with a table of labels, one task per column.

    The first line of the table, ``labels.csv``, names the columns. The first column holds the path of the
    image below the folder. Every other column is a task: two different values make a binary task; every word
    is a class; integers with at most 20 different values are classes in their order; other numbers are
    divided into five classes at the quantiles of the training rows. What is a number, and what is a missing
    label, is as in pandas: ``07``, ``7`` and ``7.0`` are one number, ``0_1`` is a word, an empty cell, ``NA``
    or ``None`` has no label. `bench data check` says what every column was taken for. A column ``split`` with
    ``train`` or ``test`` in every row sets the split; without it the split is random. Rows with a missing or
    damaged image, and columns with a single value, are left out, with one warning that names them. Copies of
    an image are kept: `bench data check` counts those that are in both splits.

    Not from a paper: the training recipe is the paper's for faces.

    Attributes:
        path: the folder, below the data root.
        size: side in px to which images are resized; the whole image is scaled to this square.
        crop: side in px of the random crop; None: 128/140 of the size, as in the paper for faces.
        flip: random flips; false if left and right matter, as for text.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        test_fraction: share of the images in the test split, if no column sets it.
        data_seed: seed of that split and of ``limit``.
    """

    version: ClassVar[int] = 2
    recipe: ClassVar[Recipe] = Recipe()
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    path: str = "images"
    size: Annotated[int, Ge(8)] = 140
    crop: Annotated[int, Ge(8)] | None = None
    flip: bool = True
    limit: Annotated[int, Ge(2)] | None = None
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    data_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if not is_below(self.path):
            raise BenchError(f"dataset 'folder': path = {self.path!r} is not below the data root")
        check_crop("folder", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        table = Path(self.path, TABLE)
        return describe_missing_file("folder", root, table, f"{table} and the images it names")

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/PATH/labels.csv``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing, the table is malformed or the cache cannot be used.
        """
        folder = require_files(self.missing(root), root) / self.path
        table = read_table(folder / TABLE)
        files = list(_existing_files(folder, table.cells.index))
        if not files:
            raise no_image_error(f"none of the images that {folder / TABLE} names is in {folder}", folder)
        rows = table.cells.loc[sorted(file.name for file in files)]
        is_test = self._test_rows(table, rows)
        columns = read_columns(table, rows.drop(columns=SPLIT, errors="ignore"), ~is_test)
        return load_labeled_images(
            cache,
            "folder",
            folder,
            files=files,
            missing=table.cells.index.difference(rows.index),
            labels=columns.labels,
            tasks=columns.tasks,
            is_test=is_test,
            limit=self.limit,
            seed=self.data_seed,
            decode=DecodeSettings((self.size, self.size)),
            augmentation=Augmentation(self.crop or round(self.size * 128 / 140), self.flip),
            decisions=columns.decisions,
            notes=columns.omissions,
            progress=progress,
        )

    def _test_rows(self, table: LabelTable, rows: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows [n] are the test split."""
        if SPLIT in rows:
            splits = rows[SPLIT].str.lower()
            for name, split in splits[~splits.isin(SPLIT_NAMES)].items():
                raise table.cell_error(str(name), SPLIT, f"{split!r} is neither train nor test")
            return (splits == "test").to_numpy()
        return draw_test_rows(
            "folder", rows.index.to_series(name="images"), self.test_fraction, self.data_seed
        )


def _existing_files(folder: Path, names: Iterable[str]) -> Iterator[File]:
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        if S_ISREG(status.st_mode):
            yield File(name, status.st_size, status.st_mtime_ns)
