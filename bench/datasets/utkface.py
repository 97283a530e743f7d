"""UTKFace: faces with age, race and gender in their files' names."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

import torch
from annotated_types import Ge, Gt, Lt

from bench.api import MultiTaskData
from bench.datasets.data_root import FileLayout, no_image_error
from bench.datasets.decoding import File, Selection, find_copies, list_images, load_decoded, split_name
from bench.datasets.image_files import IMAGE_SUFFIXES, DecodeSettings
from bench.datasets.labeled_images import check_crop, log_notes, skipped_note
from bench.datasets.splits import empty_split_error, slice_splits
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

LAYOUT: Final = FileLayout(
    "utkface",
    ("utkface", "utkface-new"),
    {"images": ("UTKFace/", "part*/", "crop_part*/", *(f"*_*_*_*{suffix}" for suffix in IMAGE_SUFFIXES))},
    "utkface/UTKFace/AGE_GENDER_RACE_DATE.jpg.chip.jpg (aligned and cropped)",
    loose=False,
)

LAST_YEARS: Final = (2, 9, 19, 29, 39, 49, 59, 69)
"""The last year of every age class except the highest."""

AGE: Final = Classification(
    "age", ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
)
RACE: Final = Classification("race", ("White", "Black", "Asian", "Indian", "Other"))
GENDER: Final = Classification("gender", ("male", "female"))
TASKS: Final = (AGE, RACE, GENDER)

_NAME: Final = re.compile(r"(\d+)_(\d+)_(\d+)_\d+ *\..+", re.ASCII)
_MAX_AGE: Final = 120


class UnusableNameError(ValueError):
    """A file name without usable labels; the message says why."""


def read_labels(name: str) -> dict[str, int]:
    """Return task → class of a file ``AGE_GENDER_RACE_DATE.jpg.chip.jpg``; blanks after DATE are allowed.

    Raises:
        UnusableNameError: if one of the four numbers is missing, or a label is out of range.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UnusableNameError("malformed name")
    age, gender, race = map(int, match.groups())
    if age > _MAX_AGE or race >= RACE.classes or gender >= GENDER.classes:
        raise UnusableNameError("label out of range")
    return {AGE.name: bisect_left(LAST_YEARS, age), RACE.name: race, GENDER.name: gender}


@dataclass(frozen=True)
class UTKFace:
    """Faces of all ages: 9 age classes, 5 races and 2 genders; aligned and cropped original files.

    Files without usable labels and damaged images are skipped, with one warning that names them.
    The collection has byte-identical copies, which would leak from the training set into the test set: of
    these only the file with the smallest name is used, with its labels; the warning counts the others. The
    rest is sorted by name, shuffled and split, because there is no official split.

    The labels are noisy: ages were estimated by a model and checked by people, and are visibly wrong on some
    faces; nearly half of the copies have an age, race or gender that differs from the original's. Nearly one
    face in a hundred has a copy that was cropped or saved again, which is not found: the two may be in
    different splits, and a third of these pairs have different labels. None of this is corrected.

    Source: Zhang, Song, Qi, CVPR 2017, arXiv:1702.08423; classes, size and split as in Yu et al., ICML 2025
    (MTL-UE)

    Attributes:
        size: side in px to which images are resized.
        crop: side in px of the random crop; None: 128/140 of the size, as in the paper.
        limit: number of images to use, the first of the shuffled list; damaged ones count; None: all.
        test_fraction: share of the images in the test split.
        data_seed: seed of the shuffle; each seed has its own decode cache, because it orders the rows.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(batch=512, stl_epochs=20)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    quick_params: ClassVar[dict[str, object]] = {"size": 24, "limit": 60}

    size: Annotated[int, Ge(8)] = 140
    crop: Annotated[int, Ge(8)] | None = None
    limit: Annotated[int, Ge(2)] | None = None
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    data_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_crop("utkface", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        return LAYOUT.missing(root)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/utkface/UTKFace``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if images are missing or too few, or the cache cannot be used.
        """
        found = LAYOUT.find(root)
        folder, files = list_images(found[""])
        if not files:
            what = f"{found['images']} has no images; UTKFace is expected as DATA_ROOT/{LAYOUT.wanted}"
            raise no_image_error(what, found[""])
        images, selection, cached_in = load_decoded(
            cache,
            "utkface",
            folder,
            files=files,
            decode=DecodeSettings((self.size, self.size), aspect=(1, 1)),
            order={"limit": self.limit, "data_seed": self.data_seed},
            select=lambda: self._select(folder, files),
            progress=progress,
        )
        count = len(selection.names)
        train_count = count - round(count * self.test_fraction)
        if not 0 < train_count < count:
            raise empty_split_error("utkface", self.test_fraction, f"{count} images")
        notes = _omission_notes(selection, len(files))
        log_notes("utkface", notes)
        labels = [read_labels(split_name(name)[0]) for name in selection.names]
        targets = {task.name: torch.tensor([label[task.name] for label in labels]) for task in TASKS}
        augmentation = Augmentation(self.crop or round(self.size * 128 / 140), flip=True)
        splits = slice_splits(images, targets, train_count)
        return MultiTaskData(TASKS, *splits, augmentation, notes, cached_in)

    def _select(self, folder: Path, files: list[File]) -> Selection:
        """Choose and shuffle the files: their folders do not matter."""
        skipped = {}
        for file in files:
            try:
                read_labels(split_name(file.name)[0])
            except UnusableNameError as error:
                skipped[file.name] = str(error)
        usable = sorted((file.name for file in files if file.name not in skipped), key=split_name)
        first = {split_name(name)[0]: name for name in reversed(usable)}
        copies = {name: first[split_name(name)[0]] for name in usable if name != first[split_name(name)[0]]}
        copies |= find_copies(folder, [name for name in usable if name not in copies])
        unique = [name for name in usable if name not in copies]
        shuffle = torch.randperm(len(unique), generator=torch.Generator().manual_seed(self.data_seed))
        return Selection([unique[i] for i in shuffle[: self.limit].tolist()], skipped, copies)


def _omission_notes(selection: Selection, total: int) -> tuple[str, ...]:
    """Return sentences on the files that were left out."""
    notes = []
    if selection.skipped:
        notes.append(skipped_note(selection.skipped, total))
    if copies := selection.copies:
        pairs = [(split_name(copy)[0], split_name(original)[0]) for copy, original in copies.items()]
        relabeled = sum(read_labels(copy) != read_labels(original) for copy, original in pairs)
        if repeated := sum(copy == original for copy, original in pairs):
            notes.append(f"left out {repeated} files with the name of another one in another folder")
        if identical := len(pairs) - repeated:
            notes.append(f"left out {identical} byte-identical copies, {relabeled} of them with other labels")
    return tuple(notes)
