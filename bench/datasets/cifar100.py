"""CIFAR-100: small photographs with a fine and a coarse label."""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from annotated_types import Ge, Le

from bench.api import MultiTaskData
from bench.datasets.cache import cached_arrays
from bench.datasets.data_root import FileLayout, Found, name_unreadable_file
from bench.datasets.splits import draw_used_rows, slice_splits
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

MD5: Final[dict[str, str]] = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
"""The published files' checksums."""

LAYOUT: Final = FileLayout(
    "cifar100",
    ("cifar-100-python", "cifar-100"),
    {name: (name,) for name in MD5},
    "cifar-100-python/train, test and meta, as published",
)

SIDE: Final = 32

READING_VERSION: Final = 1
"""Version of the arrays that are made of the files, raised when they change."""


@dataclass(frozen=True)
class CIFAR100:
    """Photographs of 32×32 px with two tasks: 20 coarse classes, each with 5 fine ones.

    The published files are pickles, which can run any code: they are read only if they have the published
    checksums, and only arrays and plain values are loaded. Official split.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009

    Departs from the field's training: images are flipped but not padded by 4 px before the crop, because a
    publisher of images cannot perturb the padding. No paper has a recipe for both tasks together; this one is
    MTL-UE's with the batch size of 128 that single-task papers use.

    Attributes:
        crop: side in px of the random crop; None: the whole image.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        data_seed: seed of ``limit``.
    """

    version: ClassVar[int] = 2
    recipe: ClassVar[Recipe] = Recipe(batch=128)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    crop: Annotated[int, Ge(8), Le(SIDE)] | None = None
    limit: Annotated[int, Ge(2)] | None = None
    data_seed: Annotated[int, Ge(0)] = 0

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        return LAYOUT.missing(root)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/cifar-100-python``; its arrays are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing or not the published one, or the cache cannot be used.
        """
        files = LAYOUT.find(root)
        statuses = [files[name].stat() for name in MD5]
        identity = {
            "reading": READING_VERSION,
            "draw": None if self.limit is None else [self.limit, self.data_seed],
            "files": [(status.st_size, status.st_mtime_ns) for status in statuses],
        }
        arrays, index, cached_in = cached_arrays(
            cache, "cifar100", identity, lambda built: self._write_arrays(files, built, progress)
        )
        tasks = tuple(Classification(name, tuple(index["classes"][name])) for name in ("coarse", "fine"))
        targets = {task.name: arrays[task.name] for task in tasks}
        splits = slice_splits(arrays["images"], targets, index["train"])
        return MultiTaskData(tasks, *splits, Augmentation(self.crop, flip=True), cached_in=cached_in)

    def _write_arrays(self, files: Found, built: Path, progress: Progress) -> dict[str, Any]:
        """Write images and labels, the training split first; return its size and the names of the classes."""
        content = {}
        for done, name in enumerate(MD5, 1):
            content[name] = read_published(files[name], MD5[name])
            progress("reading", done, len(MD5))
        train, test, meta = content["train"], content["test"], content["meta"]
        images = np.concatenate([train["data"], test["data"]])
        is_test = np.arange(len(images)) >= len(train["data"])
        rows = draw_used_rows(is_test, self.limit, self.data_seed)
        np.save(built / "images.npy", images[rows].reshape(-1, 3, SIDE, SIDE))
        for task in ("coarse", "fine"):
            labels = np.array(train[f"{task}_labels"] + test[f"{task}_labels"], dtype=np.int64)
            np.save(built / f"{task}.npy", labels[rows])
        return {
            "train": int((~is_test[rows]).sum()),
            "classes": {task: meta[f"{task}_label_names"] for task in ("coarse", "fine")},
        }


def read_published(path: Path, checksum: str) -> dict[str, Any]:
    """Return the dictionary in a published file.

    Raises:
        BenchError: if it is not the published file or cannot be read.
    """
    with name_unreadable_file(path):
        content = path.read_bytes()
    if md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise BenchError(f"{path} is not the published file (its MD5 is not {checksum}); download it again")
    dictionary: dict[str, Any] = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    return dictionary


_ALLOWED: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # type: ignore[dict-item]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""Everything that the published files refer to, by the names in the NumPy of that time."""


class _Unpickler(pickle.Unpickler):
    """Loads arrays and plain values, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return an allowed function or class.

        Raises:
            UnpicklingError: for any other.
        """
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None
