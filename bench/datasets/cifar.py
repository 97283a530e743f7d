"""CIFAR-10 and CIFAR-100: small photographs, read only from the published files."""

import io
import pickle
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from annotated_types import Ge, Le

from bench.api import MultiTaskData
from bench.datasets.cache import cached_arrays
from bench.datasets.data_root import FileLayout, Found, read_published_bytes
from bench.datasets.splits import draw_used_rows, slice_splits
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, ignore_progress

MD5_10: Final[dict[str, str]] = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
"""File of CIFAR-10 → its published checksum."""

MD5_100: Final[dict[str, str]] = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
"""File of CIFAR-100 → its published checksum."""

SIDE: Final = 32

READING_VERSION: Final = 1
"""Version of the arrays that are made of the files, raised when they change."""


@dataclass(frozen=True)
class CIFARFiles(ABC):
    """What CIFAR-10 and CIFAR-100 have in common.

    The published files are pickles, which can run any code: they are read only if they have the published
    checksums, and only arrays and plain values are loaded. Official split.

    Attributes:
        crop: side in px of the random crop; None: the whole image.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        data_seed: seed of ``limit``.
        layout: the files.
        checksums: file → its published MD5; the last two files are the test images and the classes' names.
        label_keys: task → the key of its labels, and of the names of its classes.
    """

    recipe: ClassVar[Recipe] = Recipe(batch=128)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    layout: ClassVar[FileLayout]
    checksums: ClassVar[Mapping[str, str]]
    label_keys: ClassVar[Mapping[str, tuple[str, str]]]

    crop: Annotated[int, Ge(8), Le(SIDE)] | None = None
    limit: Annotated[int, Ge(2)] | None = None
    data_seed: Annotated[int, Ge(0)] = 0

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        return self.layout.missing(root)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read the published files; their arrays are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: if a file is missing or not the published one, or the cache cannot be used.
        """
        files = self.layout.find(root)
        statuses = [files[name].stat() for name in self.checksums]
        identity = {
            "reading": READING_VERSION,
            "draw": None if self.limit is None else [self.limit, self.data_seed],
            "files": [(status.st_size, status.st_mtime_ns) for status in statuses],
        }
        arrays, index, cached_in = cached_arrays(
            cache, self.layout.dataset, identity, lambda built: self._write_arrays(files, built, progress)
        )
        tasks = tuple(Classification(name, tuple(index["classes"][name])) for name in self.label_keys)
        targets = {task.name: arrays[task.name] for task in tasks}
        splits = slice_splits(arrays["images"], targets, index["train"])
        return MultiTaskData(tasks, *splits, Augmentation(self.crop, flip=True), cached_in=cached_in)

    def _write_arrays(self, files: Found, built: Path, progress: Progress) -> dict[str, Any]:
        """Write images and labels, the training split first; return its size and the names of the classes."""
        contents = []
        for done, (name, checksum) in enumerate(self.checksums.items(), 1):
            contents.append(read_published(files[name], checksum))
            progress("reading", done, len(self.checksums))
        *batches, names = contents
        images = np.concatenate([batch["data"] for batch in batches])
        is_test = np.arange(len(images)) >= len(images) - len(batches[-1]["data"])
        rows = draw_used_rows(is_test, self.limit, self.data_seed)
        np.save(built / "images.npy", images[rows].reshape(-1, 3, SIDE, SIDE))
        for task, (labels, _) in self.label_keys.items():
            np.save(built / f"{task}.npy", _join_labels(batches, labels)[rows])
        return {
            "train": int((~is_test[rows]).sum()),
            "classes": {task: names[key] for task, (_, key) in self.label_keys.items()},
        }


@dataclass(frozen=True)
class CIFAR10(CIFARFiles):
    """Photographs of 32×32 px with one task of ten classes, on which single-task attacks are published.

    The published files are pickles, which can run any code: they are read only if they have the published
    checksums, and only arrays and plain values are loaded. Official split.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009

    Departs from the field's training: images are flipped but not padded by 4 px before the crop, because a
    publisher of images cannot perturb the padding. The recipe is MTL-UE's with the batch size of 128 that
    single-task papers use.
    """

    version: ClassVar[int] = 1
    layout: ClassVar[FileLayout] = FileLayout(
        "cifar10",
        ("cifar-10-batches-py", "cifar-10"),
        {name: (name,) for name in MD5_10},
        "cifar-10-batches-py/data_batch_1 to data_batch_5, test_batch and batches.meta, as published",
    )
    checksums: ClassVar[Mapping[str, str]] = MD5_10
    label_keys: ClassVar[Mapping[str, tuple[str, str]]] = {"class": ("labels", "label_names")}


@dataclass(frozen=True)
class CIFAR100(CIFARFiles):
    """Photographs of 32×32 px with two tasks: 20 coarse classes, each with 5 fine ones.

    The published files are pickles, which can run any code: they are read only if they have the published
    checksums, and only arrays and plain values are loaded. Official split.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009

    Departs from the field's training: images are flipped but not padded by 4 px before the crop, because a
    publisher of images cannot perturb the padding. No paper has a recipe for both tasks together; this one is
    MTL-UE's with the batch size of 128 that single-task papers use.
    """

    version: ClassVar[int] = 2
    layout: ClassVar[FileLayout] = FileLayout(
        "cifar100",
        ("cifar-100-python", "cifar-100"),
        {name: (name,) for name in MD5_100},
        "cifar-100-python/train, test and meta, as published",
    )
    checksums: ClassVar[Mapping[str, str]] = MD5_100
    label_keys: ClassVar[Mapping[str, tuple[str, str]]] = {
        "coarse": ("coarse_labels", "coarse_label_names"),
        "fine": ("fine_labels", "fine_label_names"),
    }


def _join_labels(batches: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([label for batch in batches for label in batch[key]], dtype=np.int64)


def read_published(path: Path, checksum: str) -> dict[str, Any]:
    """Return the dictionary in a published file.

    Raises:
        BenchError: if it is not the published file or cannot be read.
    """
    content = read_published_bytes(path, checksum)
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
