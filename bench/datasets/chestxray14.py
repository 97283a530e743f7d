"""ChestX-ray14: X-ray images of the chest with 14 findings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import pandas as pd
from annotated_types import Ge, Gt, Lt

from bench.api import MultiTaskData
from bench.datasets.decoding import Decode, list_files
from bench.datasets.labeled_images import (
    check_crop,
    draw_test_rows,
    load_labeled_images,
    missing_files_sentence,
    omissions,
    require_files,
    rows_with_files,
    warn_of_omissions,
)
from bench.errors import BenchError, unknown_name_error
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

FOLDER: Final = "chestxray14"
ENTRIES: Final = "Data_Entry_2017*.csv"
TRAIN: Final = "train_val_list.txt"
TEST: Final = "test_list.txt"
LAYOUT: Final = f"{FOLDER}/{ENTRIES}, {TRAIN}, {TEST} and images/*.png (or images_001/images/*.png, ...)"
"""What is expected under the data root."""

FINDINGS: Final = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NOTHING: Final = "No Finding"

_IMAGE, _FINDINGS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"


@dataclass(frozen=True)
class ChestXray14:
    """Gray X-ray images with 14 binary findings, scored by AUROC; whole or a subset, at any resolution.

    Official: ``train_val_list.txt`` is the training set, ``test_list.txt`` the test set; no patient is in
    both. Images that are missing, not listed or damaged are left out, with one warning that counts them. The
    random flip is the paper's, though it moves the heart to the other side. A finding that has one class only
    in the test set has no AUROC.

    Source: Wang et al., CVPR 2017, arXiv:1705.02315; size, crop, flip and split as in Yu et al., ICML 2025
    (MTL-UE)

    Attributes:
        size: side in px at which images are kept; the paper has 256, and 128 in part.
        crop: side in px of the random crop; None: 224/256 of the size, as in the paper.
        split: the official one, or a seeded one of all images that are there, apart by patient.
        limit: use so many images, of each split its share, drawn with ``split_seed``; None: all.
        test_fraction: part of the patients that is the test split, if it is not the official one.
        split_seed: seed of that split, and of what ``limit`` leaves.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(batch=128, stl_epochs=20)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    quick_params: ClassVar[dict[str, object]] = {"size": 24, "limit": 60}

    size: Annotated[int, Ge(8)] = 256
    crop: Annotated[int, Ge(8)] | None = None
    split: Literal["official", "patient"] = "official"
    limit: Annotated[int, Ge(2)] | None = None
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    split_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_crop("chestxray14", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return one sentence on what is not there and where it is expected, None where it is there."""
        lists = (TRAIN, TEST) if self.split == "official" else ()
        needed = (f"{FOLDER}/{name}" for name in (ENTRIES, *lists, "images*"))
        return missing_files_sentence("chestxray14", root, LAYOUT, *needed)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/chestxray14``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: when something is missing, a list is malformed or the cache cannot be used.
        """
        folder = require_files(self.missing(root), root) / FOLDER
        files = list_files(folder, ".png", folders=_image_folders(folder))
        paths = pd.Series({file.name.rpartition("/")[2]: file.name for file in files}, dtype=object)
        entries = read_entries(max(folder.glob(ENTRIES)))  # the last of several versions
        official = read_split(folder) if self.split == "official" else None
        table = entries if official is None else entries[entries.index.isin(official.index)]
        rows, notes = rows_with_files(table, paths.index)
        if rows.empty:
            raise BenchError(f"none of the {len(files)} images in {folder} is in its lists")
        if official is None:
            test = draw_test_rows("chestxray14", rows["patients"], self.test_fraction, self.split_seed)
        else:
            test = official[rows.index].to_numpy(dtype=bool)
        train_split, test_split, skipped = load_labeled_images(
            cache,
            "chestxray14",
            folder,
            files=files,
            labels=rows[list(FINDINGS)].set_axis(paths[rows.index]),
            test=test,
            limit=self.limit,
            seed=self.split_seed,
            decode=Decode((self.size, self.size), mode="L"),
            progress=progress,
        )
        if skipped:
            notes.append(omissions(skipped, len(files)))
        warn_of_omissions("chestxray14", notes)
        tasks = tuple(Classification(name, ("no", "yes"), "auroc") for name in FINDINGS)
        augmentation = Augmentation(self.crop or round(self.size * 224 / 256), flip=True)
        return MultiTaskData(tasks, train_split, test_split, augmentation, tuple(notes))


def _image_folders(folder: Path) -> list[str]:
    """Return the folders of images, one or the published twelve; of a name in two the last one counts."""
    found = (folder / "images", *sorted(folder.glob("images_*/images")))
    return [path.relative_to(folder).as_posix() for path in found if path.is_dir()]


def read_entries(path: Path) -> pd.DataFrame:
    """Return the patient (``patients``) and 0 or 1 for every finding, of every image, the index.

    Raises:
        BenchError: naming the file and the line that is not as published.
    """
    try:
        table = pd.read_csv(
            path,
            usecols=[_IMAGE, _FINDINGS, _PATIENT],
            dtype=str,
            index_col=False,  # rows may end with a comma that the header does not have
            na_filter=False,
            skip_blank_lines=False,
        )
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # the parser's, which names the line or the missing columns
        raise BenchError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    table.index += 2  # the line of each row
    table = table[(table != "").any(axis=1)]
    _refuse(path, table[_IMAGE][(table == "").any(axis=1)], "is not an image with findings and a patient")
    _refuse(path, table[_IMAGE][table[_IMAGE].duplicated()], "is listed twice")
    codes, combinations = pd.factorize(table[_FINDINGS])  # some hundred in the whole set
    marks = pd.Series(combinations).str.get_dummies("|")
    for name in marks.columns.difference([*FINDINGS, NOTHING]):
        line = table.index[marks[name].to_numpy()[codes] > 0][0]
        raise unknown_name_error(f"finding in {path}, line {line}:", name, FINDINGS)
    marks = marks.reindex(columns=[*FINDINGS, NOTHING], fill_value=0)
    contradictory = marks[NOTHING] == marks[list(FINDINGS)].any(axis=1)
    _refuse(path, table[_FINDINGS][contradictory.to_numpy()[codes]], f"is neither findings nor {NOTHING!r}")
    findings = marks.iloc[codes].set_axis(table[_IMAGE]).drop(columns=NOTHING)
    return findings.assign(patients=table[_PATIENT].to_numpy())


def read_split(folder: Path) -> pd.Series:
    """Return whether an image, the index, is for testing, of those that are for training or testing.

    Raises:
        BenchError: naming the list and the line that is not the name of an image, or repeats one.
    """
    train, test = _read_names(folder / TRAIN), _read_names(folder / TEST)
    _refuse(folder / TEST, test[test.isin(train)], f"is in {TRAIN} too")
    return pd.Series([False] * len(train) + [True] * len(test), [*train, *test])


def _read_names(path: Path) -> pd.Series:
    """Return the names in a list, by their lines."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    names = pd.Series(lines, range(1, len(lines) + 1), dtype=str).str.strip()
    names = names[names != ""]
    _refuse(path, names[~names.str.fullmatch(r"\S+\.png", case=False)], "is not the name of a PNG image")
    _refuse(path, names[names.duplicated()], "is listed twice")
    return names


def _refuse(path: Path, offending: pd.Series, why: str) -> None:
    """Raise the error that names the first of the offending values, by line, if there are any."""
    for line, value in offending.items():
        raise BenchError(f"{path}, line {line}: {value!r} {why}")
