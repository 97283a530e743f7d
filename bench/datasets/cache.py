"""Arrays that are slow to make, kept memory-mapped so that only a dataset's first load makes them.

They live in ``CACHE/DATASET-KEY/``: one ``NAME.npy`` per array and ``index.json``, which holds what goes with
them and the type and shape of each. KEY is a hash of everything that they were made from. A folder whose name
begins with a dot is being made, or was by a process that was killed.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from bench.errors import BenchError
from bench.files import hash_json

LAYOUT = 2
"""Version of the folder's layout, part of every key."""

Array = NDArray[Any]

logger = logging.getLogger("bench")


class _DamagedError(Exception):
    """A cached folder that is not what was written."""


class RowWriter:
    """An ``.npy`` file written some rows at a time, however many there will be.

    Rows are written, not stored through a memory map: on a full disk the latter kills the process.

    Attributes:
        count: rows written so far.
    """

    def __init__(self, path: Path, row: tuple[int, ...], dtype: DTypeLike) -> None:
        """Open the file for rows of this shape."""
        self.count = 0
        self._row = row
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: Array) -> None:
        """Write rows [n ...], which must have the file's shape and type."""
        if rows.shape[1:] != self._row or rows.dtype != self._dtype:
            raise ValueError(f"rows are {rows.dtype} {rows.shape[1:]}, not {self._dtype} {self._row}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def _write_header(self) -> None:
        """Write the header, or write it again: NumPy pads it so that any count of rows fits in place."""
        self._file.seek(0)
        shape = (self.count, *self._row)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write_header()
        finally:
            self._file.close()


def cached_arrays(
    cache: Path,
    dataset: str,
    identity: Mapping[str, Any],
    build: Callable[[Path], dict[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a dataset's arrays from the cache, making them first where it has none that are sound.

    Processes that make the same arrays at once do not harm each other: the first to finish is kept.

    Args:
        cache: where arrays are kept; made if it is not there.
        dataset: the dataset's name, for the folder's.
        identity: everything the arrays depend on, as JSON values: settings, a version of the code that makes
            them, and the sources' names, sizes and times of change.
        build: writes every array as ``NAME.npy`` into the folder it is given, by `RowWriter` or ``np.save``,
            and returns the index, JSON values to be kept beside them; called only where they must be made.

    Returns:
        NAME → array, memory-mapped (slices by rows copy nothing; writing to it changes private memory only);
        and the index.

    Raises:
        BenchError: when the cache cannot be read or written; what ``build`` raises is passed on, but for an
            OSError, which is taken for the cache's. None of them leaves anything behind.
    """
    target = cache / f"{dataset}-{hash_json([LAYOUT, dict(identity)])[:16]}"
    try:
        kept = _reuse(target)
        if kept is None:
            _build(target, build)
            kept = _open(target)
    except OSError as error:
        raise BenchError(f"cannot use the cache in {cache}: {error.strerror or error}") from error
    except _DamagedError as damage:
        raise BenchError(f"cannot replace the damaged arrays in {target} ({damage}); remove it") from damage
    return kept


def _reuse(target: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what an earlier load made, or None after removing what is damaged."""
    if not target.exists():
        return None
    try:
        return _open(target)
    except _DamagedError as damage:
        logger.warning("the cached arrays in %s are damaged (%s) and are made again", target, damage)
        shutil.rmtree(target, ignore_errors=True)
        return None


def _open(target: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Map a cached folder into memory.

    Its index is checked in full. The arrays' values are only counted, as reading them all would take the time
    that the cache saves; they were on the disk before the folder got its name. A missing file is damage; one
    that the system does not let us read is not, and stays.
    """
    try:
        content = json.loads((target / "index.json").read_text(encoding="utf-8"))
        kept, checksum = content["kept"], content["checksum"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"index.json: {error}") from error
    if checksum != hash_json(kept):
        raise _DamagedError("index.json: its checksum does not match")
    arrays = {}
    for name, header in kept["arrays"].items():
        file = f"{name}.npy"
        try:
            array = _map(target / file)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise _DamagedError(f"{file}: {error}") from error
        if _header(array) != header or not array.flags.c_contiguous:
            raise _DamagedError(f"{file}: {_header(array)} where the index says {header}")
        arrays[name] = torch.from_numpy(array)
    return arrays, kept["index"]


def _map(path: Path) -> Array:
    # Copy-on-write: PyTorch warns of arrays it must not write to, and whoever does write changes private
    # memory, never the file.
    return np.lib.format.open_memmap(path, mode="c")


def _header(array: Array) -> list[Any]:
    """Return the array's type and shape as JSON values."""
    return [array.dtype.str, list(array.shape)]


def _build(target: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    """Make the arrays in a folder aside and rename it, unless another process has meanwhile done so."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        built = Path(aside) / "built"  # inside, since the temporary folder itself is private to its owner
        built.mkdir()
        index = build(built)
        paths = sorted(built.glob("*.npy"))
        kept = {"arrays": {path.stem: _written(path) for path in paths}, "index": index}
        file = built / "index.json"
        file.write_text(json.dumps({"checksum": hash_json(kept), "kept": kept}), encoding="utf-8")
        for path in (*paths, file):
            _sync(path)
        try:
            built.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def _written(path: Path) -> list[Any]:
    """Return the header of an array that a builder wrote; ``np.save`` may be silent about a full disk."""
    try:
        return _header(_map(path))
    except ValueError as error:
        raise OSError(f"{path.name} could not be written in full") from error


def _sync(path: Path) -> None:
    """Wait until the file is on the disk, so that a folder that has its name has its files' content too."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
