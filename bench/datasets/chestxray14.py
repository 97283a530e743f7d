"""ChestX-ray14: X-ray images of the chest with 14 findings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import pandas as pd
from annotated_types import Ge, Gt, Lt

from bench.api import MultiTaskData
from bench.datasets.data_root import FileLayout, name_unreadable_file, no_image_error
from bench.datasets.decoding import list_images
from bench.datasets.image_files import DecodeSettings
from bench.datasets.labeled_images import LISTED, check_crop, load_labeled_images, match_rows_to_files
from bench.datasets.splits import draw_test_rows
from bench.errors import BenchError, unknown_name_error
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

LAYOUT: Final = FileLayout(
    "chestxray14",
    ("chestxray14", "chest-xray14", "chestx-ray14", "chest-x-ray14", "nih-chest-xrays", "CXR8"),
    {
        "entries": ("Data_Entry_2017*.csv",),
        "train": ("train_val_list.txt", "train_val_list*.txt"),
        "test": ("test_list.txt", "test_list*.txt"),
        "images": ("images*/", "[0-9]*.png", "[0-9]*.jpg"),
    },
    "chestxray14/Data_Entry_2017*.csv, train_val_list.txt, test_list.txt and images/*.png"
    " (or images_001/images/*.png, ...)",
    loose=False,
)

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
NO_FINDING: Final = "No Finding"

_IMAGE, _FINDINGS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"


@dataclass(frozen=True)
class ChestXray14:
    """Gray X-ray images with 14 binary findings, scored by AUROC; the full set or a subset, at any size.

    Official split: ``train_val_list.txt`` is the training set, ``test_list.txt`` the test set; no patient is
    in both. Images that are missing, not listed or damaged are left out, with one warning that counts them.
    The random flip is the paper's, although it moves the heart to the other side. A finding with only one
    class in the test set has no AUROC.

    Source: Wang et al., CVPR 2017, arXiv:1705.02315; size, crop, flip and split as in Yu et al., ICML 2025
    (MTL-UE)

    Attributes:
        size: side in px to which images are resized; the paper uses 256, in some experiments 128.
        crop: side in px of the random crop; None: 224/256 of the size, as in the paper.
        split: the official one, or a random one of all images in which no patient is in both splits.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        test_fraction: share of the patients in the test split, if it is not the official one.
        data_seed: seed of that split and of ``limit``.
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
    data_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_crop("chestxray14", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        return LAYOUT.missing(root, self._needed)

    @property
    def _needed(self) -> tuple[str, ...]:
        """The entries of the layout that the split needs."""
        return ("entries", "train", "test", "images") if self.split == "official" else ("entries", "images")

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/chestxray14``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing, a list is malformed or the cache cannot be used.
        """
        found = LAYOUT.find(root, self._needed)
        folder, files = list_images(found[""])
        entries = read_entries(found["entries"])
        official = read_split(found["train"], found["test"]) if self.split == "official" else None
        table = entries if official is None else entries[entries.index.isin(official.index)]
        rows, notes = match_rows_to_files(table, files)
        if rows.empty:
            place = found[""]
            raise no_image_error(f"none of the {len(files)} images in {place} is in its lists", place)
        if official is None:
            is_test = draw_test_rows("chestxray14", rows["patients"], self.test_fraction, self.data_seed)
        else:
            is_test = official[rows[LISTED]].to_numpy(dtype=bool)
        return load_labeled_images(
            cache,
            "chestxray14",
            folder,
            files=files,
            labels=rows[list(FINDINGS)],
            tasks=tuple(Classification(name, ("no", "yes"), "auroc") for name in FINDINGS),
            is_test=is_test,
            limit=self.limit,
            seed=self.data_seed,
            decode=DecodeSettings((self.size, self.size), mode="L"),
            augmentation=Augmentation(self.crop or round(self.size * 224 / 256), flip=True),
            notes=notes,
            progress=progress,
        )


def read_entries(path: Path) -> pd.DataFrame:
    """Return 0 or 1 for every finding, and the patient (column ``patients``), of every image, the index.

    Raises:
        BenchError: naming the file and the line that is not in the published format.
    """
    try:
        with name_unreadable_file(path):
            table = pd.read_csv(
                path,
                usecols=[_IMAGE, _FINDINGS, _PATIENT],
                dtype=str,
                index_col=False,  # rows may end with a comma that the header does not have
                na_filter=False,
                skip_blank_lines=False,
            )
    except ValueError as error:  # of the parser, which names the line or the missing columns
        raise BenchError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    table.index += 2  # line numbers
    table = table[(table != "").any(axis=1)]
    images = table[_IMAGE]
    _reject_lines(path, images[(table == "").any(axis=1)], "is not an image with findings and a patient")
    _reject_lines(path, images[images.duplicated()], "is listed twice")
    codes, combinations = pd.factorize(table[_FINDINGS])  # some hundred in the full set
    marks = pd.Series(combinations).str.get_dummies("|")
    for name in marks.columns.difference([*FINDINGS, NO_FINDING]):
        line = table.index[marks[name].to_numpy()[codes] > 0][0]
        raise unknown_name_error(f"finding in {path}, line {line}:", name, FINDINGS)
    marks = marks.reindex(columns=[*FINDINGS, NO_FINDING], fill_value=0)
    contradictory = marks[NO_FINDING] == marks[list(FINDINGS)].any(axis=1)
    contradictions = table[_FINDINGS][contradictory.to_numpy()[codes]]
    _reject_lines(path, contradictions, f"is neither findings nor {NO_FINDING!r}")
    findings = marks.iloc[codes].set_axis(images).drop(columns=NO_FINDING)
    return findings.assign(patients=table[_PATIENT].to_numpy())


def read_split(train_list: Path, test_list: Path) -> pd.Series:
    """Return whether an image, the index, is for testing; of the images in the two lists.

    Raises:
        BenchError: naming the list and the line that is not the name of an image or repeats one.
    """
    train, test = _read_names(train_list), _read_names(test_list)
    _reject_lines(test_list, test[test.isin(train)], f"is also in {train_list.name}")
    return pd.Series([False] * len(train) + [True] * len(test), [*train, *test])


def _read_names(path: Path) -> pd.Series:
    """Return the names in a list, indexed by line number."""
    with name_unreadable_file(path):
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = pd.Series(lines, range(1, len(lines) + 1), dtype=str).str.strip()
    names = names[names != ""]
    is_png = names.str.fullmatch(r"\S+\.png", case=False)
    _reject_lines(path, names[~is_png], "is not the name of a PNG image")
    _reject_lines(path, names[names.duplicated()], "is listed twice")
    return names


def _reject_lines(path: Path, rejected: pd.Series, reason: str) -> None:
    """Raise an error on the first of the rejected values, indexed by line number, if there are any."""
    for line, value in rejected.items():
        raise BenchError(f"{path}, line {line}: {value!r} {reason}")
