"""Image files whose labels stand in a table: how they become two splits, and what is said of the others."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.datasets.decoding import Decode, File, Selection, load_decoded
from bench.errors import BenchError
from bench.files import hash_json
from bench.values import Progress, Split

_SHOWN: Final = 3

logger = logging.getLogger("bench")


def missing_files_sentence(dataset: str, root: Path | None, layout: str, *patterns: str) -> str | None:
    """Return one sentence on what is not under the data root, None where all is there.

    Args:
        dataset: the dataset's name.
        root: the data root.
        layout: the files expected under it, as a person writes them.
        patterns: what must be there, as globs below the root.
    """
    if root is None:
        return f"dataset {dataset!r} needs files on disk; pass --data-root with {layout} under it"
    for pattern in patterns:
        if next(root.glob(pattern), None) is None:
            return f"there is no {root / pattern}; pass --data-root with {layout} under it"
    return None


def require_files(missing: str | None, root: Path | None) -> Path:
    """Return the data root.

    Args:
        missing: what a dataset's ``missing`` says.
        root: the data root.

    Raises:
        BenchError: with that sentence, when something is missing.
    """
    if root is None or missing:
        raise BenchError(str(missing))
    return root


def check_crop(dataset: str, crop: int | None, size: int) -> None:
    """Refuse a crop that is larger than the image.

    Raises:
        BenchError: naming the dataset.
    """
    if crop is not None and crop > size:
        raise BenchError(f"dataset {dataset!r}: crop = {crop} is larger than size = {size}")


def omissions(skipped: Mapping[str, str], total: int) -> str:
    """Return a sentence on how many files are left out, and of the first ones why."""
    named = [f"{name!r} ({reason})" for name, reason in sorted(skipped.items())]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"skipped {len(named)} of {total} files: {', '.join(named[:_SHOWN])}{more}"


def warn_of_omissions(dataset: str, notes: Sequence[str]) -> None:
    """Say all notes in one warning, if there are any."""
    if notes:
        logger.warning("%s: %s", dataset, "; ".join(notes))


def rows_with_files(table: pd.DataFrame, names: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the table's rows whose files are there, and a sentence on what has no counterpart.

    Args:
        table: one row per file, its index.
        names: the files that are there.
    """
    there = pd.Index(names)
    rows = table[table.index.isin(there)]
    notes = []
    if absentees := len(table) - len(rows):
        notes.append(f"{absentees} of {len(table)} images in the lists are not there")
    if strangers := len(there) - len(rows):
        notes.append(f"{strangers} of {len(there)} images are not in the lists")
    return rows, notes


def draw_test_rows(dataset: str, groups: pd.Series, test_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows [n] are the test split: those of a share of the groups, drawn with the seed.

    Args:
        dataset: the dataset's name.
        groups: the group of every row; the series' name is what one calls them.
        test_fraction: the share.
        seed: of the draw.

    Raises:
        BenchError: when there are too few groups for two splits.
    """
    from sklearn.model_selection import GroupShuffleSplit

    splitter = GroupShuffleSplit(1, test_size=test_fraction, random_state=seed)
    test = np.zeros(len(groups), dtype=bool)
    try:
        test[next(splitter.split(groups, groups=groups))[1]] = True
    except ValueError as error:
        where = f"test_fraction = {test_fraction} of {groups.nunique()} {groups.name}"
        raise BenchError(f"dataset {dataset!r}: {where} leaves a split empty") from error
    return test


def load_labeled_images(
    cache: Path,
    dataset: str,
    folder: Path,
    *,
    files: Sequence[File],
    labels: pd.DataFrame,
    test: NDArray[np.bool_],
    limit: int | None,
    seed: int,
    decode: Decode,
    progress: Progress,
) -> tuple[Split, Split, dict[str, str]]:
    """Return the training and the test split, in the order of the labels, and file → why it is left out.

    Args:
        cache: where decoded images are kept.
        dataset: the dataset's name.
        folder: what the files' names are relative to.
        files: all of them; any change of them makes a new cache.
        labels: one row per file, its index, and one column of classes per task.
        test: which of these rows [n] are the test split.
        limit: use so many images, of each split its share; None: all.
        seed: of the images that a limit leaves; a larger limit leaves the same ones and more.
        decode: how each file becomes an image.
        progress: called as images are decoded.

    Raises:
        BenchError: when a split is empty, no file can be read, or the cache cannot be used.
    """
    rows = _in_order(test, limit, seed)
    names = labels.index[rows].tolist()
    decoded = load_decoded(
        cache,
        dataset,
        folder,
        files=files,
        decode=decode,
        order={"rows": hash_json(names)},
        select=lambda: Selection(names, {}, {}),
        progress=progress,
    )
    rows = labels.index.get_indexer(pd.Index(decoded.names))
    train = int((~test[rows]).sum())
    if not 0 < train < len(rows):
        raise BenchError(
            f"dataset {dataset!r}: of {len(rows)} images {train} are for training: a split is empty"
        )
    targets = {str(task): torch.from_numpy(labels[task].to_numpy(np.int64)[rows]) for task in labels}
    first, rest = (
        Split(decoded.images[part], {task: target[part] for task, target in targets.items()})
        for part in (slice(None, train), slice(train, None))
    )
    return first, rest, decoded.skipped


def _in_order(test: NDArray[np.bool_], limit: int | None, seed: int) -> NDArray[np.int64]:
    """Return the rows to use, those for training first."""
    shares = split_limit(len(test) - int(test.sum()), int(test.sum()), limit)
    shuffled = np.random.default_rng(seed).permutation(len(test))
    parts = (shuffled[~test[shuffled]], shuffled[test[shuffled]])
    return np.concatenate([np.sort(part[:count]) for part, count in zip(parts, shares, strict=True)])


def split_limit(train: int, test: int, limit: int | None) -> tuple[int, int]:
    """Return how many images of each split a limit on both leaves, at least one of each that has any."""
    if limit is None or limit >= train + test:
        return train, test
    tested = min(max(round(limit * test / (train + test)), min(test, 1)), limit - min(train, 1))
    return limit - tested, tested
