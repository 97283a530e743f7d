"""Training and test split: how they are drawn, limited and cut from arrays."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BenchError
from bench.values import Split


def draw_test_rows(dataset: str, groups: pd.Series, test_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Draw a share of the groups and return which rows [n] belong to them: the test split.

    Args:
        dataset: the dataset's name.
        groups: the group of every row; the series' name is the plural for groups.
        test_fraction: the share.
        seed: of the draw.

    Raises:
        BenchError: if there are too few groups for two splits.
    """
    from sklearn.model_selection import GroupShuffleSplit

    splitter = GroupShuffleSplit(1, test_size=test_fraction, random_state=seed)
    is_test = np.zeros(len(groups), dtype=bool)
    try:
        is_test[next(splitter.split(groups, groups=groups))[1]] = True
    except ValueError as error:
        raise empty_split_error(dataset, test_fraction, f"{groups.nunique()} {groups.name}") from error
    return is_test


def empty_split_error(dataset: str, test_fraction: float, total: str) -> BenchError:
    """Return the error for a test fraction of this total that leaves a split empty."""
    return BenchError(f"dataset {dataset!r}: test_fraction = {test_fraction} of {total} leaves a split empty")


def draw_used_rows(is_test: NDArray[np.bool_], limit: int | None, seed: int) -> NDArray[np.int64]:
    """Draw the rows to use and return them in order, the training split first.

    Args:
        is_test: which of all rows [n] are the test split.
        limit: number of rows to use, shared between the splits in proportion; None: all.
        seed: of the draw; a larger limit keeps the same rows and adds more.
    """
    counts = share_limit(int((~is_test).sum()), int(is_test.sum()), limit)
    shuffled = np.random.default_rng(seed).permutation(len(is_test))
    parts = (shuffled[~is_test[shuffled]], shuffled[is_test[shuffled]])
    return np.concatenate([np.sort(part[:count]) for part, count in zip(parts, counts, strict=True)])


def share_limit(train: int, test: int, limit: int | None) -> tuple[int, int]:
    """Return how many images of each split a limit on both leaves, at least one of each non-empty split."""
    if limit is None or limit >= train + test:
        return train, test
    limited_test = min(max(round(limit * test / (train + test)), min(test, 1)), limit - min(train, 1))
    return limit - limited_test, limited_test


def slice_splits(images: Tensor, targets: Mapping[str, Tensor], train_count: int) -> tuple[Split, Split]:
    """Return the first rows as the training split and the others as the test split, uncopied."""
    first, rest = (
        Split(images[rows], {task: target[rows] for task, target in targets.items()})
        for rows in (slice(None, train_count), slice(train_count, None))
    )
    return first, rest
