"""CIFAR-100: small photographs, each with a fine and a coarse label."""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from annotated_types import Ge, Le

from bench import torchvision_import
from bench.api import MultiTaskData
from bench.datasets.cache import cached_arrays
from bench.datasets.labeled_images import missing_files_sentence, require_files, split_limit
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress

FOLDER: Final = "cifar-100-python"
LAYOUT: Final = f"{FOLDER}/train, test and meta, as published"
"""What is expected under the data root."""

_PUBLISHED: Final = torchvision_import.datasets.CIFAR100
MD5: Final[dict[str, str]] = {
    **dict(_PUBLISHED.train_list),
    **dict(_PUBLISHED.test_list),
    _PUBLISHED.meta["filename"]: _PUBLISHED.meta["md5"],
}
"""The published files' checksums."""

SIDE: Final = 32

READING: Final = 1
"""Version of what is made of the files, raised when it changes."""


@dataclass(frozen=True)
class CIFAR100:
    """Photographs of 32×32 px with two tasks: 20 *coarse* classes, and 5 *fine* ones in each of them.

    The published files are pickles, which could run any code: they are read only if their checksums are the
    published ones, and then without anything but arrays and plain values. Official split.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009

    Departs from the field's training: images are flipped but not padded by 4 px before the crop, since
    whoever publishes them cannot perturb a padding. The recipe, which no paper has for the two tasks
    together, is MTL-UE's in the batches of 128 that single-task papers take.

    Attributes:
        crop: side in px of the random crop; None: the whole image.
        limit: use the first so many images, of each split its share; None: all.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(batch=128)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    crop: Annotated[int, Ge(8), Le(SIDE)] | None = None
    limit: Annotated[int, Ge(2)] | None = None

    def missing(self, root: Path | None) -> str | None:
        """Return one sentence on what is not there and where it is expected, None where it is there."""
        return missing_files_sentence("cifar100", root, LAYOUT, *(f"{FOLDER}/{name}" for name in MD5))

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/cifar-100-python``; its arrays are kept under ``cache`` and memory-mapped.

        Raises:
            BenchError: when a file is missing or not the published one, or the cache cannot be used.
        """
        folder = require_files(self.missing(root), root) / FOLDER
        states = [(folder / name).stat() for name in MD5]
        identity = {
            "reading": READING,
            "limit": self.limit,
            "files": [(state.st_size, state.st_mtime_ns) for state in states],
        }

        def build(aside: Path) -> dict[str, Any]:
            return self._write(folder, aside, progress)

        arrays, index = cached_arrays(cache, "cifar100", identity, build)
        tasks = tuple(Classification(name, tuple(index["classes"][name])) for name in ("coarse", "fine"))
        train, test = (
            Split(arrays["images"][rows], {task.name: arrays[task.name][rows] for task in tasks})
            for rows in (slice(None, index["train"]), slice(index["train"], None))
        )
        return MultiTaskData(tasks, train, test, Augmentation(self.crop, flip=True))

    def _write(self, folder: Path, aside: Path, progress: Progress) -> dict[str, Any]:
        """Write images and labels, those for training first, and return their number and the classes."""
        content = {}
        for done, name in enumerate(MD5, 1):
            content[name] = read_published(folder / name, MD5[name])
            progress("reading", done, len(MD5))
        train, test, meta = content["train"], content["test"], content["meta"]
        counts = split_limit(len(train["data"]), len(test["data"]), self.limit)
        images = np.concatenate([train["data"][: counts[0]], test["data"][: counts[1]]])
        np.save(aside / "images.npy", images.reshape(-1, 3, SIDE, SIDE))
        for task in ("coarse", "fine"):
            labels = train[f"{task}_labels"][: counts[0]] + test[f"{task}_labels"][: counts[1]]
            np.save(aside / f"{task}.npy", np.array(labels, dtype=np.int64))
        return {
            "train": counts[0],
            "classes": {task: meta[f"{task}_label_names"] for task in ("coarse", "fine")},
        }


def read_published(path: Path, checksum: str) -> dict[str, Any]:
    """Return the dictionary in a published file.

    Raises:
        BenchError: when it is not the published file, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    if md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise BenchError(f"{path} is not the published file (its MD5 is not {checksum}); download it again")
    found: dict[str, Any] = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    return found


_ALLOWED: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # type: ignore[dict-item]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that the published files refer to, by the names of their time."""


class _Unpickler(pickle.Unpickler):
    """Makes arrays and plain values, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return what a pickle may refer to.

        Raises:
            UnpicklingError: for anything else.
        """
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None
