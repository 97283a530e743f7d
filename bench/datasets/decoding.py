"""Image files decoded once and kept memory-mapped, so that only a dataset's first load waits for a codec.

A dataset lists its files, says how they are decoded and which of them become which row, and gets uint8 rows
[n c h w] back. They live in ``CACHE/DATASET-KEY/``: ``images.npy`` and ``index.json``, which names the file
of every row and every file left out. KEY is a hash of the decoding, of what orders the rows, and of every
file's name, size and time of change, so an added, removed or changed file makes a new folder. A folder whose
name begins with a dot is being made, or was by a process that was killed.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from bench.errors import BenchError
from bench.record import digest

LAYOUT = 1
"""Version of the folder's layout and of the decoding; raised when either changes."""

CHUNK = 256
"""Images decoded before they are written: bounds the memory of a first load."""

logger = logging.getLogger("bench")


class File(NamedTuple):
    """A file as its folder lists it: its name, its bytes and its time of change in nanoseconds."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Decode:
    """How a file becomes a row: Pillow's full decode, ``mode``, then bilinear with antialias to a square.

    JPEG's draft mode, which decodes at a fraction of the size, is not used: it is faster below half size, but
    its pixels are other than those of the image.

    Attributes:
        size: side of the row in px.
        mode: three channels or one.
    """

    size: int
    mode: Literal["RGB", "L"] = "RGB"

    @property
    def row(self) -> tuple[int, int, int]:
        """Shape [c h w] of a row."""
        return len(self.mode), self.size, self.size


@dataclass(frozen=True)
class Selection:
    """Which files are decoded.

    Attributes:
        names: one per row, in the order of the rows.
        skipped: file → why it cannot be used.
        copies: file → the byte-identical file that is used in its place.
    """

    names: Sequence[str]
    skipped: Mapping[str, str]
    copies: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Decoded:
    """Decoded images; a `Selection` in which unreadable files are ``skipped`` too.

    Attributes:
        images: uint8 [n c h w], memory-mapped; to slice it by rows copies nothing.
        names: the file of each row.
        skipped: file → why it is left out.
        copies: file → the byte-identical file that is used in its place.
    """

    images: UInt8[Tensor, "n c h w"]
    names: tuple[str, ...]
    skipped: dict[str, str]
    copies: dict[str, str]


class _UnreadableError(Exception):
    """A file that is no image, or a damaged one."""


class _DamagedError(Exception):
    """A cached folder that is not what was written."""


def list_files(folder: Path, *suffixes: str) -> list[File]:
    """Return the folder's files with these suffixes, in the order of their names, without hidden ones.

    Raises:
        BenchError: when the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = [
                File(entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.lower().endswith(suffixes)
                and not entry.name.startswith(".")
                and entry.is_file()
            ]
    except OSError as error:
        raise BenchError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    return sorted(found)


def find_copies(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return every file that is byte-identical to one of a smaller name → that of the smallest.

    A file that cannot be read is no copy; decoding will say so.
    """

    def hashed(name: str) -> str:
        try:
            with (folder / name).open("rb") as file:
                return file_digest(file, "sha256").hexdigest()
        except OSError:
            return name

    ordered = sorted(names)
    originals: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        paired = [
            (name, originals.setdefault(content, name))
            for name, content in zip(ordered, pool.map(hashed, ordered), strict=True)
        ]
    return {name: original for name, original in paired if name != original}


def load_decoded(
    cache: Path,
    dataset: str,
    folder: Path,
    *,
    files: Sequence[File],
    decode: Decode,
    order: Mapping[str, Any],
    select: Callable[[], Selection],
) -> Decoded:
    """Return a dataset's images from the cache, decoding them first where it has none that is sound.

    Processes that decode the same images at once do not harm each other: the first to finish is kept.

    Args:
        cache: where decoded images are kept; made if it is not there.
        dataset: the dataset's name, for the folder's.
        folder: where the files are.
        files: all of them, as listed; any change of them makes a new cache.
        decode: how each becomes a row.
        order: every setting that ``select`` depends on, as JSON values.
        select: chooses and orders the files; called only where they must be decoded.

    Raises:
        BenchError: when the cache cannot be written, which leaves nothing behind, or no file can be read.
    """
    key = digest({"layout": LAYOUT, "decode": asdict(decode), "order": dict(order), "files": files})[:16]
    target = cache / f"{dataset}-{key}"
    try:
        kept = _reuse(target, decode)
        if kept is None:
            _build(target, folder, decode, select())
            kept = _open(target, decode)
    except OSError as error:
        raise BenchError(f"cannot use the decode cache in {cache}: {error.strerror or error}") from error
    except _DamagedError as damage:
        raise BenchError(f"cannot replace the damaged images in {target} ({damage}); remove it") from damage
    return kept


def _reuse(target: Path, decode: Decode) -> Decoded | None:
    """Return what an earlier load decoded, or None after removing what is damaged."""
    if not target.exists():
        return None
    try:
        return _open(target, decode)
    except _DamagedError as damage:
        logger.warning("the decoded images in %s are damaged (%s) and are decoded again", target, damage)
        shutil.rmtree(target, ignore_errors=True)
        return None


def _open(target: Path, decode: Decode) -> Decoded:
    """Map a cached folder into memory.

    Its index is checked in full. The pixels are only counted, as reading them all would take the time that
    the cache saves; they were on the disk before the folder got its name. A missing file is damage; one that
    the system does not let us read is not, and stays.
    """
    try:
        content = json.loads((target / "index.json").read_text(encoding="utf-8"))
        index, checksum = content["index"], content["checksum"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"index.json: {error}") from error
    if checksum != digest(index):
        raise _DamagedError("index.json: its checksum does not match")
    try:
        # Copy-on-write: PyTorch warns of arrays it must not write to, and whoever does write changes private
        # memory, never the file.
        rows = np.lib.format.open_memmap(target / "images.npy", mode="c")
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise _DamagedError(f"images.npy: {error}") from error
    shape = (len(index["names"]), *decode.row)
    if rows.shape != shape or rows.dtype != np.uint8 or not rows.flags.c_contiguous:
        raise _DamagedError(f"images.npy: {rows.dtype} {rows.shape} where the index says uint8 {shape}")
    return Decoded(torch.from_numpy(rows), tuple(index["names"]), index["skipped"], index["copies"])


def _build(target: Path, folder: Path, decode: Decode, selection: Selection) -> None:
    """Decode into a folder aside and rename it, unless another process has meanwhile done so."""
    logger.info("decoding %d images of %s to %d px", len(selection.names), folder, decode.size)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        built = Path(aside) / "built"  # inside, since the temporary folder itself is private to its owner
        built.mkdir()
        _write(built, folder, decode, selection)
        try:
            built.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def _write(built: Path, folder: Path, decode: Decode, selection: Selection) -> None:
    with (built / "images.npy").open("wb") as file:
        unreadable = _write_rows(file, folder, decode, selection.names)
        _sync(file)
    if len(unreadable) == len(selection.names):
        first = next(iter(unreadable.items()), None)
        raise BenchError(
            f"{folder} has no image that can be read" + (f"; {first[0]}: {first[1]}" if first else "")
        )
    index = {
        "names": [name for name in selection.names if name not in unreadable],
        "skipped": {**selection.skipped, **unreadable},
        "copies": dict(selection.copies),
    }
    with (built / "index.json").open("w", encoding="utf-8") as text:
        json.dump({"checksum": digest(index), "index": index}, text)
        _sync(text)


def _write_rows(file: IO[bytes], folder: Path, decode: Decode, names: Sequence[str]) -> dict[str, str]:
    """Write the rows of the readable files and return file → reason for the others.

    Rows are written, not stored through a memory map: on a full disk the latter kills the process.
    """
    unreadable: dict[str, str] = {}
    _write_header(file, len(names), decode)
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside of the interpreter's lock
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            rows = [pool.submit(_read_row, folder / name, decode) for name in chunk]
            for name, row in zip(chunk, rows, strict=True):
                try:
                    file.write(row.result())
                except _UnreadableError as error:
                    unreadable[name] = str(error)
    # The header again, now that the rows are counted; NumPy pads it so that a count fits in place.
    _write_header(file, len(names) - len(unreadable), decode)
    return unreadable


def _write_header(file: IO[bytes], rows: int, decode: Decode) -> None:
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *decode.row)}
    np.lib.format.write_array_header_1_0(file, header)


def _read_row(path: Path, decode: Decode) -> bytes:
    """Decode one file to the bytes of its row [c h w]."""
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            square = image.convert(decode.mode).resize((decode.size, decode.size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _UnreadableError("unreadable image") from error
    pixels = np.asarray(square).reshape(decode.size, decode.size, -1)
    return pixels.transpose(2, 0, 1).tobytes()


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
