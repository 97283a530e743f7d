"""CelebA: faces of celebrities with 40 attributes."""

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, TextIO

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.datasets.data_root import FileLayout, name_unreadable_file, no_image_error
from bench.datasets.decoding import list_images
from bench.datasets.image_files import IMAGE_SUFFIXES, DecodeSettings
from bench.datasets.labeled_images import LISTED, check_crop, load_labeled_images, match_rows_to_files
from bench.datasets.splits import draw_test_rows
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

LAYOUT: Final = FileLayout(
    "celeba",
    ("celeba", "celeba-dataset"),
    {
        "images": (
            *("img_align_celeba/", "img_align_celeba_png/", "images/"),
            *("[0-9]*.jpg", "[0-9]*.png", "[0-9]*.jpeg"),
        ),
        "attributes": ("list_attr_celeba.txt", "list_attr_celeba.csv"),
        "partition": ("list_eval_partition.txt", "list_eval_partition.csv"),
        "identity": ("identity_CelebA.txt", "identity_CelebA.csv"),
    },
    "celeba/img_align_celeba/*.jpg (the aligned images), celeba/list_attr_celeba.txt and"
    " celeba/list_eval_partition.txt (or .csv)",
)
NEEDED: Final = ("images", "attributes", "partition")

_FILE: Final = "file"

ASPECT: Final = (218, 178)
"""Height and width of the published images."""

CROP: Final = (140 / 218, 140 / 178)
"""The central square of 140 px, in shares of height and width of the published images."""

VALIDATION, TEST = 1, 2
"""Official partitions; 0 is the training set."""


@dataclass(frozen=True)
class CelebA:
    """Aligned faces with 40 binary attributes; the full set or a subset, at any size.

    The central square of every image, 140 of 178×218 px, is cut out and resized. The official training
    partition is the training set, the official test partition the test set; the validation partition is not
    used. If one of the two is empty, as in a subset, all images are split again so that no identity is in
    both splits, and a note says so. Images that are missing, not listed or damaged are left out, with one
    warning that counts them.

    Source: Liu, Luo, Wang, Tang, ICCV 2015, arXiv:1411.7766; size, crops and split as in Yu et al., ICML 2025
    (MTL-UE)

    Attributes:
        size: side in px to which images are resized.
        crop: side in px of the random crop; None: 64/70 of the size, as in the paper.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        test_fraction: share of the identities in the test split, if the official one cannot be used.
        data_seed: seed of that split and of ``limit``.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(batch=512, stl_epochs=10)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    quick_params: ClassVar[dict[str, object]] = {"size": 24, "limit": 60}

    size: Annotated[int, Ge(8)] = 70
    crop: Annotated[int, Ge(8)] | None = None
    limit: Annotated[int, Ge(2)] | None = None
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    data_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_crop("celeba", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        return LAYOUT.missing(root, NEEDED)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/celeba``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing, a list is malformed or the cache cannot be used.
        """
        found = LAYOUT.find(root, NEEDED)
        images = found["images"] if found["images"].is_dir() else found["images"].parent
        folder, files = list_images(images)
        attributes = read_attributes(found["attributes"])
        partition = read_list(found["partition"], ["partition"], values=(0, 1, 2))
        table = attributes.join(partition, how="inner")
        rows, notes = match_rows_to_files(table, files)
        if rows.empty:
            lists = found["attributes"].parent
            raise no_image_error(f"none of the images in {folder} is in the lists of {lists}", found[""])
        used = rows[rows["partition"] != VALIDATION]
        is_test = used["partition"].to_numpy() == TEST
        if is_test.all() or not is_test.any():
            used, is_test = rows, self._split_by_identity(root, rows)
            notes.append(
                "the official partition leaves a split empty, so the images are split by identity, "
                f"{is_test.sum()} of {len(is_test)} for testing"
            )
        return load_labeled_images(
            cache,
            "celeba",
            folder,
            files=files,
            labels=used[attributes.columns] > 0,
            tasks=tuple(Classification(name, ("no", "yes")) for name in map(str, attributes)),
            is_test=is_test,
            limit=self.limit,
            seed=self.data_seed,
            decode=DecodeSettings((self.size, self.size), crop=CROP, aspect=ASPECT),
            augmentation=Augmentation(self.crop or round(self.size * 64 / 70), flip=True),
            notes=notes,
            progress=progress,
        )

    def _split_by_identity(self, root: Path | None, rows: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows [n] are the test split; no identity is in both splits."""
        if problem := LAYOUT.missing(root, ("identity",)):
            raise BenchError(f"the official partition leaves a split empty; to split by identity, {problem}")
        path = LAYOUT.find(root, ("identity",))["identity"]
        identities = read_list(path, ["identities"])["identities"].reindex(rows[LISTED])
        if identities.isna().any():
            raise BenchError(f"{path} has no identity for {identities.index[identities.isna()][0]}")
        return draw_test_rows("celeba", identities, self.test_fraction, self.data_seed)


def read_attributes(path: Path) -> pd.DataFrame:
    """Return -1 or 1 per image (the index) and attribute (the columns), as published or as CSV.

    Raises:
        BenchError: naming the file and the line that is not in the published format.
    """
    with name_unreadable_file(path), _open_list(path) as lines:
        first, second = lines.readline().strip(), lines.readline()
    if _is_csv(path):
        names = [name.strip() for name in first.split(",")[1:]]
    elif first.isdecimal():
        names = second.split()
    else:
        raise BenchError(f"{path}, line 1: {first!r} is not the number of images")
    line = 1 if _is_csv(path) else 2
    if not all(names) or not names or len(set(names)) < len(names):
        raise BenchError(f"{path}, line {line}: the names of the attributes are missing or not distinct")
    return read_list(path, names, values=(-1, 1), header=line)


def read_list(
    path: Path, columns: Sequence[str], values: Collection[int] | None = None, header: int = 0
) -> pd.DataFrame:
    """Return the rows ``FILE VALUE ...`` of a list: files are the index, integer values the columns.

    Args:
        path: the list; the rows of a CSV file are separated by commas, and its first line may be a header.
        columns: a name for every value of a row.
        values: the allowed values; None: all.
        header: number of lines before the first row of a list that is not CSV.

    Raises:
        BenchError: naming the file and the line that is malformed or repeats a file.
    """
    if _is_csv(path):
        with name_unreadable_file(path), _open_list(path) as lines:
            first = lines.readline().partition(",")[0]
        header = 0 if first.strip(' "').lower().endswith(IMAGE_SUFFIXES) else 1
    try:
        with name_unreadable_file(path):
            table = pd.read_csv(
                path,
                sep="," if _is_csv(path) else r"\s+",
                header=None,
                names=[_FILE, *columns],
                dtype={_FILE: str} | dict.fromkeys(columns, np.int32),
                skiprows=header,
                na_filter=False,
                quoting=csv.QUOTE_MINIMAL if _is_csv(path) else csv.QUOTE_NONE,
                encoding="utf-8-sig",
                encoding_errors="replace",
            )
    except ValueError as error:  # the parser does not always know the line
        raise _malformed_line_error(path, columns, values, header) from error
    # If the first row is too long, the parser uses its first field as the index.
    is_regular = table.index.equals(pd.RangeIndex(len(table))) and table[_FILE].is_unique
    if not is_regular or (values is not None and not np.isin(table[list(columns)], list(values)).all()):
        raise _malformed_line_error(path, columns, values, header)
    return table.set_index(_FILE)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _open_list(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="replace")


def _malformed_line_error(
    path: Path, columns: Sequence[str], values: Collection[int] | None, header: int
) -> BenchError:
    """Return the error that names the first line which `read_list` rejects."""
    seen = set()
    with _open_list(path) as lines:
        for number, line in enumerate(lines, 1):
            name, *fields = line.strip().split("," if _is_csv(path) else None) or [""]
            if number <= header or not name:
                continue
            if len(fields) != len(columns):
                return BenchError(f"{path}, line {number}: {len(fields)} values, not {len(columns)}")
            for field in fields:
                if not re.fullmatch(r"[+-]?\d+", field.strip()) or (values and int(field) not in values):
                    allowed = " or ".join(map(str, values)) if values else "an integer"
                    return BenchError(f"{path}, line {number}: {field!r} is not {allowed}")
            if name in seen:
                return BenchError(f"{path}, line {number}: {name} is listed twice")
            seen.add(name)
    return BenchError(f"{path} is not a list of files and values")
