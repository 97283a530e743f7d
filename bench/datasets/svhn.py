"""SVHN: photographs of house numbers."""

import io
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

MD5: Final[dict[str, str]] = {
    "train": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test": "eb5a983be6a315427106f1b164d9cef3",
}
"""The published files' checksums."""

LAYOUT: Final = FileLayout(
    "svhn",
    ("svhn", "svhn-cropped"),
    {name: (f"{name}_32x32.mat",) for name in MD5},
    "svhn/train_32x32.mat and test_32x32.mat, as published",
)

SIDE: Final = 32

READING_VERSION: Final = 1
"""Version of the arrays that are made of the files, raised when they change."""

DIGIT: Final = Classification("digit", tuple("0123456789"))


@dataclass(frozen=True)
class SVHN:
    """House numbers of 32×32 px with one task: the digit in the middle.

    In the published files the digit 0 has the label 10; here it has 0. Official split; the extra training
    images are not used. The files are read only if they have the published checksums.

    Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", NIPS
    Workshop 2011. The recipe is MTL-UE's with the batch size of 128 that single-task papers use; digits are
    not flipped

    Attributes:
        crop: side in px of the random crop; None: the whole image.
        limit: number of images to use, in proportion from each split, drawn with ``data_seed``; None: all.
        data_seed: seed of ``limit``.
    """

    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(batch=128)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    crop: Annotated[int, Ge(8), Le(SIDE)] | None = None
    limit: Annotated[int, Ge(2)] | None = None
    data_seed: Annotated[int, Ge(0)] = 0

    def missing(self, root: Path | None) -> str | None:
        """Return a sentence on what is missing and where it is expected, None if nothing is."""
        return LAYOUT.missing(root)

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read ``ROOT/svhn``; its arrays are kept under ``cache`` and memory-mapped.

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
            cache, "svhn", identity, lambda built: self._write_arrays(files, built, progress)
        )
        splits = slice_splits(arrays["images"], {DIGIT.name: arrays["digit"]}, index["train"])
        return MultiTaskData((DIGIT,), *splits, Augmentation(self.crop), cached_in=cached_in)

    def _write_arrays(self, files: Found, built: Path, progress: Progress) -> dict[str, Any]:
        """Write images and labels, the training split first; return its size."""
        from scipy.io import loadmat  # imports slowly

        contents = []
        for done, (name, checksum) in enumerate(MD5.items(), 1):
            file = io.BytesIO(read_published_bytes(files[name], checksum))
            contents.append(loadmat(file))  # type: ignore[arg-type]
            progress("reading", done, len(MD5))
        images = np.concatenate([content["X"].transpose(3, 2, 0, 1) for content in contents])
        labels = np.concatenate([content["y"][:, 0] for content in contents]).astype(np.int64) % 10
        is_test = np.arange(len(images)) >= contents[0]["X"].shape[3]
        rows = draw_used_rows(is_test, self.limit, self.data_seed)
        np.save(built / "images.npy", images[rows])
        np.save(built / "digit.npy", labels[rows])
        return {"train": int((~is_test[rows]).sum())}
