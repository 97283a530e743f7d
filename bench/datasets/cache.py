"""Keep arrays that are slow to make on disk, so that only a dataset's first load makes them.

The folder ``CACHE/DATASET-KEY/`` holds one ``NAME.npy`` per array, and ``index.json`` with further values and
the type and shape of each array. KEY is a hash of everything that the arrays were made from. A folder whose
name begins with a dot is being written, or was by a process that was killed.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from bench.errors import BenchError, describe_error
from bench.files import NotAFileError, flush_to_disk, hash_json, remove_own_folder, require_file

LAYOUT_VERSION = 2
"""Version of the folder's layout, part of every key."""

Array = NDArray[Any]
Contents = tuple[dict[str, Tensor], dict[str, Any], Path]
"""Arrays by name, the index, and the folder that they are mapped from."""

logger = logging.getLogger("bench")


class _DamagedError(Exception):
    """A cached folder whose content is not what was written."""


class RowWriter:
    """Writes an ``.npy`` file some rows at a time; their number need not be known.

    It does not use a memory map, because writing to one on a full disk kills the process.

    Attributes:
        count: rows written so far.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.count = 0
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: Array) -> None:
        """Write rows [n ...], which must have the file's shape and type."""
        if rows.shape[1:] != self._row_shape or rows.dtype != self._dtype:
            raise ValueError(f"rows are {rows.dtype} {rows.shape[1:]}, not {self._dtype} {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def _write_header(self) -> None:
        """Write or overwrite the header: NumPy pads it so that any count of rows fits."""
        self._file.seek(0)
        shape = (self.count, *self._row_shape)
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
    cache: Path, dataset: str, identity: Mapping[str, Any], build: Callable[[Path], dict[str, Any]]
) -> Contents:
    """Return a dataset's arrays from the cache; make them first if it has no intact ones.

    Processes may make the same arrays at the same time: the first to finish is kept.

    Args:
        cache: the folder of all caches; made if it does not exist.
        dataset: the dataset's name, for the name of its folder.
        identity: everything the arrays depend on, as JSON values: settings, a version of the code that makes
            them, and the sources' names, sizes and modification times.
        build: writes every array as ``NAME.npy`` into the folder it is given, with `RowWriter` or
            ``np.save``, and returns the index, JSON values that are kept with them.

    Returns:
        NAME → array, memory-mapped (slices by rows copy nothing; writing changes private memory only), the
        index, and the folder that they are mapped from.

    Raises:
        BenchError: if the cache cannot be read or written. Errors of ``build`` are passed on, except an
            OSError, which is attributed to the cache. No error leaves files behind.
    """
    target = cache / f"{dataset}-{hash_json([LAYOUT_VERSION, dict(identity)])[:16]}"
    try:
        contents = _load_intact(target)
        if contents is None:
            _build_aside(target, build)
            contents = _load(target)
    except OSError as error:
        raise BenchError(
            f"cannot use the cache in {cache}: {error.strerror or error}; give another folder "
            "by --cache or MTLUE_CACHE"
        ) from error
    except _DamagedError as damage:
        raise BenchError(f"cannot replace the damaged arrays in {target} ({damage}); remove it") from damage
    return contents


def _load_intact(target: Path) -> Contents | None:
    """Return an existing folder's contents, or None after removing a damaged one."""
    if not target.exists():
        return None
    try:
        return _load(target)
    except _DamagedError as damage:
        logger.warning("the cached arrays in %s are damaged (%s) and are made again", target, damage)
        remove_own_folder(target, [target / "index.json", *target.glob("*.npy")])
        return None


def _load(target: Path) -> Contents:
    """Map a cached folder into memory.

    The index has a checksum. Of the arrays, only type and shape are checked, since reading all values would
    take the time that the cache saves; they were on the disk before the folder got its name. A missing file
    counts as damage; a file that the system does not let us read does not, and stays.
    """
    try:
        content = json.loads(require_file(target / "index.json").read_text(encoding="utf-8"))
        kept, is_intact = content["kept"], content["checksum"] == hash_json(content["kept"])
    except (FileNotFoundError, NotAFileError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _DamagedError(f"index.json: {error}") from error
    if not is_intact:
        raise _DamagedError("index.json: its checksum does not match")
    arrays = {}
    for name, header in kept["arrays"].items():
        file = f"{name}.npy"
        try:
            array = _map_array(target / file)
        except (FileNotFoundError, NotAFileError) as error:
            raise _DamagedError(f"{file}: {error}") from error
        except OSError:
            raise
        except Exception as error:  # NumPy parses the header as Python, which can fail in any way
            raise _DamagedError(f"{file}: {describe_error(error)}") from error
        if _type_and_shape(array) != header or not array.flags.c_contiguous:
            raise _DamagedError(f"{file}: it is {_type_and_shape(array)}, but the index says {header}")
        arrays[name] = torch.from_numpy(array)
    return arrays, kept["index"], target


def _map_array(path: Path) -> Array:
    # Copy-on-write: PyTorch warns of read-only arrays, and writing changes private memory, never the file.
    return np.lib.format.open_memmap(require_file(path), mode="c")


def _type_and_shape(array: Array) -> list[Any]:
    """Return the array's type and shape as JSON values."""
    return [array.dtype.str, list(array.shape)]


def _build_aside(target: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    """Make the arrays in a temporary folder and rename it, unless another process was faster."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        built = Path(aside) / "built"  # inside, because only its owner may read the temporary folder itself
        built.mkdir()
        index = build(built)
        paths = sorted(built.glob("*.npy"))
        kept = {"arrays": {path.stem: _check_written(path) for path in paths}, "index": index}
        file = built / "index.json"
        file.write_text(json.dumps({"checksum": hash_json(kept), "kept": kept}), encoding="utf-8")
        for path in (*paths, file):
            flush_to_disk(path)
        try:
            built.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def _check_written(path: Path) -> list[Any]:
    """Return type and shape of a new array; ``np.save`` may not report a full disk."""
    try:
        return _type_and_shape(_map_array(path))
    except ValueError as error:
        raise OSError(f"{path.name} could not be written in full") from error
