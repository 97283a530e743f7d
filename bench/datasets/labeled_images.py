"""Image files whose labels come from a table: matched, split, decoded."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.api import MultiTaskData
from bench.datasets.decoding import DecodeSettings, File, Selection, load_decoded
from bench.datasets.splits import share_limit, slice_splits
from bench.errors import BenchError
from bench.files import hash_json
from bench.tasks.classification import Classification
from bench.values import Augmentation, Progress

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


def match_rows_to_files(table: pd.DataFrame, names: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the table's rows whose files exist, and notes on rows without a file and files without a row.

    Args:
        table: one row per file, its index.
        names: the existing files.
    """
    files = pd.Index(names)
    rows = table[table.index.isin(files)]
    notes = []
    if missing := len(table) - len(rows):
        notes.append(f"{missing} of {len(table)} images in the lists are missing")
    if unlisted := len(files) - len(rows):
        notes.append(f"{unlisted} of {len(files)} images are not in the lists")
    return rows, notes


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
        missing: further files that do not exist.

    Raises:
        BenchError: if a split is empty, no file can be read, or the cache cannot be used.
    """
    names = labels.index[_select_rows(is_test, limit, seed)].tolist()
    images, selection = load_decoded(
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
    return MultiTaskData(tasks, *slice_splits(images, targets, train_count), augmentation, tuple(notes))


def _select_rows(is_test: NDArray[np.bool_], limit: int | None, seed: int) -> NDArray[np.int64]:
    """Return the rows to use, the training split first."""
    counts = share_limit(int((~is_test).sum()), int(is_test.sum()), limit)
    shuffled = np.random.default_rng(seed).permutation(len(is_test))
    parts = (shuffled[~is_test[shuffled]], shuffled[is_test[shuffled]])
    return np.concatenate([np.sort(part[:count]) for part, count in zip(parts, counts, strict=True)])
