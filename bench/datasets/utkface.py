"""UTKFace: faces with age, race and gender in their files' names."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

import torch
from annotated_types import Ge, Gt, Lt

from bench.api import MultiTaskData
from bench.datasets.decoding import Decode, Decoded, File, Selection, find_copies, list_files, load_decoded
from bench.datasets.labeled_images import (
    check_crop,
    missing_files_sentence,
    omissions,
    require_files,
    warn_of_omissions,
)
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress

FOLDER: Final = "utkface/UTKFace"
LAYOUT: Final = f"{FOLDER}/AGE_GENDER_RACE_DATE.jpg.chip.jpg"
"""Where the original files are expected under the data root."""

OLDEST: Final = (2, 9, 19, 29, 39, 49, 59, 69)
"""The last year of every age class but the oldest."""

AGE: Final = Classification(
    "age", ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
)
RACE: Final = Classification("race", ("White", "Black", "Asian", "Indian", "Other"))
GENDER: Final = Classification("gender", ("male", "female"))
TASKS: Final = (AGE, RACE, GENDER)

_NAME: Final = re.compile(r"(\d+)_(\d+)_(\d+)_\d+ *\..+", re.ASCII)
_MAX_AGE: Final = 120


class UnusableNameError(ValueError):
    """A file's name that tells no labels; the message says why."""


def read_labels(name: str) -> dict[str, int]:
    """Return task → class of the file ``AGE_GENDER_RACE_DATE.jpg.chip.jpg``; a blank after DATE does no harm.

    Raises:
        UnusableNameError: when one of the four numbers is missing, or a label is out of its range.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UnusableNameError("malformed name")
    age, gender, race = map(int, match.groups())
    if age > _MAX_AGE or race >= RACE.classes or gender >= GENDER.classes:
        raise UnusableNameError("label out of range")
    return {AGE.name: bisect_left(OLDEST, age), RACE.name: race, GENDER.name: gender}


@dataclass(frozen=True)
class UTKFace:
    """Faces of all ages: 9 age classes, 5 races and 2 genders; aligned and cropped original files.

    Files without usable labels and damaged images are skipped, with one warning that names them.
    Byte-identical copies, which the collection has, would leak from the training set into the test set: of
    each only the file of the smallest name is used, with its labels; the warning counts them. The rest is
    sorted by name, shuffled and split, as no official split exists.

    Its labels are noisy: ages were estimated by a model and checked by people, and are visibly wrong on some
    faces; nearly half of the copies carry another age, race or gender than their twin. Nearly one face in a
    hundred has a copy that was cropped or saved anew, which is not found: the two may be in different splits,
    and in a third of these pairs their labels differ. None of it is corrected.

    Source: Zhang, Song, Qi, CVPR 2017, arXiv:1702.08423; classes, size and split as in Yu et al., ICML 2025
    (MTL-UE)

    Attributes:
        size: side in px at which images are kept.
        crop: side in px of the random crop; None: 128/140 of the size, as in the paper.
        limit: use the first so many images of the shuffle, damaged ones included; None: all.
        test_fraction: part of the images that is the test split.
        split_seed: seed of the shuffle; each has a decode cache of its own, as it orders the rows.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(batch=512, stl_epochs=20)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    quick_params: ClassVar[dict[str, object]] = {"size": 24, "limit": 60}

    size: Annotated[int, Ge(8)] = 140
    crop: Annotated[int, Ge(8)] | None = None
    limit: Annotated[int, Ge(2)] | None = None
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    split_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_crop("utkface", self.crop, self.size)

    def missing(self, root: Path | None) -> str | None:
        """Return one sentence on what is not there and where it is expected, None where it is there."""
        return missing_files_sentence("utkface", root, LAYOUT, FOLDER)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/utkface/UTKFace``; decoded images are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: when the images are not there, too few, or cannot be kept in the cache.
        """
        folder = require_files(self.missing(root), root) / FOLDER
        files = list_files(folder, ".jpg", ".jpeg")
        if not files:
            raise BenchError(f"{folder} has no .jpg images; UTKFace is expected as DATA_ROOT/{LAYOUT}")
        decoded = load_decoded(
            cache,
            "utkface",
            folder,
            files=files,
            decode=Decode((self.size, self.size)),
            order={"limit": self.limit, "split_seed": self.split_seed},
            select=lambda: self._select(folder, files),
            progress=progress,
        )
        notes = _notes(decoded, len(files))
        warn_of_omissions("utkface", notes)
        return self._split(decoded, notes)

    def _select(self, folder: Path, files: list[File]) -> Selection:
        """Choose and shuffle the files; the training split comes first, so both splits are slices."""
        skipped = {}
        for file in files:
            try:
                read_labels(file.name)
            except UnusableNameError as error:
                skipped[file.name] = str(error)
        usable = [file.name for file in files if file.name not in skipped]
        copies = find_copies(folder, usable)
        unique = [name for name in usable if name not in copies]
        shuffle = torch.randperm(len(unique), generator=torch.Generator().manual_seed(self.split_seed))
        return Selection([unique[i] for i in shuffle[: self.limit].tolist()], skipped, copies)

    def _split(self, decoded: Decoded, notes: tuple[str, ...]) -> MultiTaskData:
        count = len(decoded.names)
        train = count - round(count * self.test_fraction)
        if not 0 < train < count:
            where = f"test_fraction = {self.test_fraction} of {count} images"
            raise BenchError(f"dataset 'utkface': {where} leaves a split empty")
        labels = [read_labels(name) for name in decoded.names]
        targets = {task.name: torch.tensor([label[task.name] for label in labels]) for task in TASKS}
        first, rest = (
            Split(decoded.images[rows], {name: target[rows] for name, target in targets.items()})
            for rows in (slice(None, train), slice(train, None))
        )
        crop = self.crop or round(self.size * 128 / 140)
        return MultiTaskData(TASKS, first, rest, Augmentation(crop, flip=True), notes)


def _notes(decoded: Decoded, total: int) -> tuple[str, ...]:
    """Say what was left out, be the images decoded now or earlier."""
    notes = []
    if decoded.skipped:
        notes.append(omissions(decoded.skipped, total))
    if decoded.copies:
        other = sum(read_labels(copy) != read_labels(kept) for copy, kept in decoded.copies.items())
        notes.append(
            f"left out {len(decoded.copies)} byte-identical copies, {other} of them with other labels"
        )
    return tuple(notes)
