"""Image files whose labels come from a table: matched, split, decoded."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.datasets.decoding import File, Selection, load_decoded, split_name
from bench.datasets.image_files import DecodeSettings
from bench.datasets.splits import draw_used_rows, slice_splits
from bench.errors import BenchError
from bench.files import hash_json
from bench.tasks.classification import Classification
from bench.values import Augmentation, Progress

LISTED: Final = "listed name"
"""The column of the names in the lists, which may differ from the files' names in case and ending."""

_MAX_NAMED: Final = 3

logger = logging.getLogger("bench")


def check_crop(dataset: str, crop: int | None, size: int) -> None:
    """Check that a crop is not larger than the image.

    Raises:
        BenchError: naming the dataset.
    """
    if crop is not None and crop > size:
        raise BenchError(f"dataset {dataset!r}: crop = {crop} is larger than size = {size}")


def skipped_note(skipped: Mapping[str, str], total: int) -> str:
    """Return a sentence with the number of skipped files and the reasons for the first ones."""
    named = [f"{name!r} ({reason})" for name, reason in sorted(skipped.items())]
    more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
    return f"skipped {len(named)} of {total} files: {', '.join(named[:_MAX_NAMED])}{more}"


def log_notes(dataset: str, notes: Sequence[str]) -> None:
    """Log all notes in one warning, if there are any."""
    if notes:
        logger.warning("%s: %s", dataset, "; ".join(notes))


def match_rows_to_files(table: pd.DataFrame, files: Sequence[File]) -> tuple[pd.DataFrame, list[str]]:
    """Return the table's rows whose files exist, by the files' names, and notes on what is left out.

    A file belongs to a row if it has its name, in whatever folder it is, or else the same name in another
    case or with the ending of another format. Of several such files, that in the highest folder is used.

    Args:
        table: one row per file, its index, as listed.
        files: the existing files.

    Returns:
        The rows, with the listed names in the column `LISTED`, and notes on rows without a file, files
        without a row, and files that have the name of another one.
    """
    names = sorted((file.name for file in files), key=lambda name: (-name.count("/"), name))
    distinct = {split_name(name)[0]: name for name in names}
    listed = table.index.to_series()
    found = listed.map(distinct)
    if found.isna().any():
        stems = listed.map(_lower_stem)
        similar = {_lower_stem(name): name for name in distinct.values()}
        found = found.fillna(stems[~stems.duplicated(keep=False)].map(similar))
    is_found = found.notna().to_numpy()
    rows = table[is_found].assign(**{LISTED: table.index[is_found]}).set_index(pd.Index(found[is_found]))
    notes = []
    if missing := len(table) - len(rows):
        notes.append(f"{missing} of {len(table)} images in the lists are missing")
    if unlisted := len(distinct) - len(rows):
        notes.append(f"{unlisted} of {len(distinct)} images are not in the lists")
    if repeated := len(names) - len(distinct):
        notes.append(f"{repeated} further files have the name of another one and are not used")
    return rows, notes


def _lower_stem(name: str) -> str:
    """Return a file's name without its folder and its ending, in lower case."""
    base = split_name(name)[0].lower()
    return base.rpartition(".")[0] or base


def load_labeled_images(
    cache: Path,
    dataset: str,
    folder: Path,
    *,
    files: Sequence[File],
    labels: pd.DataFrame,
    is_test: NDArray[np.bool_],
    limit: int | None,
    seed: int,
    decode: DecodeSettings,
    progress: Progress,
    tasks: tuple[Classification, ...],
    augmentation: Augmentation,
    notes: Sequence[str],
    decisions: Sequence[str] = (),
    missing: Collection[str] = (),
) -> MultiTaskData:
    """Return the dataset, each split in the order of the labels, and log its notes.

    Args:
        cache: the folder of decoded images.
        dataset: the dataset's name.
        folder: the folder that names are relative to.
        files: all files; any change of them makes a new cache.
        labels: one row per file, its index, and one column of classes per task.
        is_test: which of these rows [n] are the test split.
        limit: number of images to use, shared between the splits in proportion; None: all.
        seed: of the images that a limit keeps; a larger limit keeps the same ones and more.
        decode: how each file becomes an image.
        progress: called as images are decoded.
        tasks: the dataset's tasks.
        augmentation: what its labels allow.
        notes: sentences on what was found so far; one on skipped files is added.
        decisions: sentences on how the labels were read; they are notes too, but not logged.
        missing: further files that do not exist.

    Raises:
        BenchError: if a split is empty, no file can be read, or the cache cannot be used.
    """
    names = labels.index[draw_used_rows(is_test, limit, seed)].tolist()
    images, selection, cached_in = load_decoded(
        cache,
        dataset,
        folder,
        files=files,
        decode=decode,
        order={"rows": hash_json(names)},
        select=lambda: Selection(names),
        progress=progress,
    )
    rows = labels.index.get_indexer(pd.Index(selection.names))
    train_count = int((~is_test[rows]).sum())
    if not 0 < train_count < len(rows):
        raise BenchError(
            f"dataset {dataset!r}: of {len(rows)} images {train_count} are for training: a split is empty"
        )
    if skipped := dict.fromkeys(missing, "no such file") | selection.skipped:
        notes = [*notes, skipped_note(skipped, len(files) + len(missing))]
    log_notes(dataset, notes)
    targets = {task.name: torch.from_numpy(labels[task.name].to_numpy(np.int64)[rows]) for task in tasks}
    splits = slice_splits(images, targets, train_count)
    return MultiTaskData(tasks, *splits, augmentation, (*decisions, *notes), cached_in)
