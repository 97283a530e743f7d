"""Image files decoded once, so that only a dataset's first load waits for a codec.

A dataset lists its files, says how they are decoded and which of them become which row, and gets uint8 rows
[n c h w] back, kept by `bench.datasets.cache` under a key of the decoding, of what orders the rows, and of
every file's name, size and time of change: an added, removed or changed file makes a new folder.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from bench.datasets.cache import RowWriter, cached_arrays
from bench.errors import BenchError
from bench.values import Progress, ignore_progress

DECODING = 2
"""Version of the decoding, raised when its pixels change."""

CHUNK = 256
"""Images decoded before they are written: bounds the memory of a first load."""

logger = logging.getLogger("bench")

Share = Annotated[float, Gt(0), Le(1)]


class File(NamedTuple):
    """A file as its folder lists it: its name, its bytes and its time of change in nanoseconds.

    The name is its path below the folder that was listed, with slashes.
    """

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Decode:
    """How a file becomes a row: Pillow's full decode, ``mode``, central crop, then bilinear with antialias.

    JPEG's draft mode, which decodes at a fraction of the size, is not used: it is faster below half size, but
    its pixels are other than those of the image. Transparency is dropped, not blended.

    Attributes:
        size: height and width of the row in px.
        crop: shares of the image's height and width that are cut out first, as whole pixels and, where they
            leave an odd number of pixels, placed as torchvision's ``CenterCrop`` does; None: all of it.
        mode: three channels or one.
    """

    size: tuple[int, int]
    crop: tuple[Share, Share] | None = None
    mode: Literal["RGB", "L"] = "RGB"

    @property
    def row(self) -> tuple[int, int, int]:
        """Shape [c h w] of a row."""
        return len(self.mode), *self.size


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


def list_files(root: Path, *suffixes: str, folders: Iterable[str] = ("",)) -> list[File]:
    """Return the files with these suffixes in some folders, sorted by name, without hidden ones.

    Args:
        root: what the files' names are relative to.
        suffixes: endings in lower case.
        folders: the folders below the root, with slashes; its own files by default.

    Raises:
        BenchError: when a folder cannot be read.
    """
    found = []
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(root / folder) as entries:
                found += [
                    File(prefix + entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                    for entry in entries
                    if entry.name.lower().endswith(suffixes)
                    and not entry.name.startswith(".")
                    and entry.is_file()
                ]
        except OSError as error:
            raise BenchError(f"cannot read the folder {root / folder}: {error.strerror or error}") from error
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
    progress: Progress = ignore_progress,
) -> Decoded:
    """Return a dataset's images from the cache, decoding them first where it has none that is sound.

    Args:
        cache: where decoded images are kept, see `cached_arrays`.
        dataset: the dataset's name, for the cached folder's.
        folder: what the files' names are relative to.
        files: all of them, as listed; any change of them makes a new cache.
        decode: how each becomes a row.
        order: every setting that ``select`` depends on, as JSON values.
        select: chooses and orders the files; called only where they must be decoded.
        progress: called as images are decoded.

    Raises:
        BenchError: when the cache cannot be written, which leaves nothing behind, or no file can be read.
    """

    def build(aside: Path) -> dict[str, Any]:
        selection = select()
        logger.info("decoding %d images of %s to %d×%d px", len(selection.names), folder, *decode.size)
        unreadable = _write_rows(aside / "images.npy", folder, decode, selection.names, progress)
        if len(unreadable) == len(selection.names):
            first = next((f"; {name}: {reason}" for name, reason in unreadable.items()), "")
            raise BenchError(f"{folder} has no image that can be read{first}")
        return {
            "names": [name for name in selection.names if name not in unreadable],
            "skipped": {**selection.skipped, **unreadable},
            "copies": dict(selection.copies),
        }

    identity = {"decoding": DECODING, "decode": asdict(decode), "order": dict(order), "files": files}
    arrays, index = cached_arrays(cache, dataset, identity, build)
    return Decoded(arrays["images"], tuple(index["names"]), index["skipped"], index["copies"])


def _write_rows(
    path: Path, folder: Path, decode: Decode, names: Sequence[str], progress: Progress
) -> dict[str, str]:
    """Write the rows of the readable files and return file → reason for the others."""
    unreadable: dict[str, str] = {}
    with (
        RowWriter(path, decode.row, np.uint8) as images,
        ThreadPoolExecutor() as pool,  # Pillow decodes and resizes outside of the interpreter's lock
    ):
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            rows = [pool.submit(_read_row, folder / name, decode) for name in chunk]
            for name, row in zip(chunk, rows, strict=True):
                try:
                    images.append(row.result()[None])
                except _UnreadableError as error:
                    unreadable[name] = str(error)
            progress("decoding", start + len(chunk), len(names))
    return unreadable


def _read_row(path: Path, decode: Decode) -> NDArray[np.uint8]:
    """Decode one file to its row [c h w]."""
    from PIL import Image, ImageOps

    height, width = decode.size
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.mode[0] in "IF":
                raise _UnreadableError("more than 8 bits per channel")
            upright = ImageOps.exif_transpose(image)  # as cameras note, and every viewer shows
            # A palette's transparency has to be an alpha channel before Pillow drops it without a warning.
            opaque = upright.convert("RGBA") if upright.mode == "P" else upright
            whole = opaque.convert(decode.mode)
            part = whole if decode.crop is None else whole.crop(_central(whole.size, decode.crop))
            row = part.resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _UnreadableError("unreadable image") from error
    return np.ascontiguousarray(np.asarray(row).reshape(height, width, -1).transpose(2, 0, 1))


def _central(size: tuple[int, int], shares: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the central crop of an image of this width and height."""
    width, height = (max(1, round(side * share)) for side, share in zip(size, shares[::-1], strict=True))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return left, top, left + width, top + height
