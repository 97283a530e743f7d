"""Decode image files once, so that only the first load of a dataset waits for it.

A dataset lists its files, chooses how they are decoded and which file becomes which row, and gets uint8 rows
[n c h w]. `bench.datasets.cache` keeps them under a key of the decoding, of the settings that order the rows,
and of every file's name, size and modification time: an added, removed or changed file makes a new folder.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import UInt8
from torch import Tensor

from bench.datasets.cache import RowWriter, cached_arrays
from bench.errors import BenchError
from bench.files import hash_file
from bench.values import Progress, ignore_progress

DECODING_VERSION = 2
"""Version of the decoding, raised when its pixels change."""

CHUNK = 256
"""Images that are decoded before they are written; bounds the memory of a first load."""

logger = logging.getLogger("bench")

Share = Annotated[float, Gt(0), Le(1)]


class File(NamedTuple):
    """A file of a listed folder: its path below the folder, with slashes, size and modification time."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class DecodeSettings:
    """How a file becomes a row: full decode, ``mode``, central crop, then Pillow's bilinear resize.

    JPEG's draft mode, which decodes at a fraction of the size, is not used: it is faster below half size, but
    gives other pixels. Transparency is dropped, not blended.

    Attributes:
        size: height and width of the row in px.
        crop: shares of the image's height and width that are cut out first, in whole pixels and at the
            position of torchvision's ``CenterCrop``; None: the whole image.
        mode: three channels or one.
    """

    size: tuple[int, int]
    crop: tuple[Share, Share] | None = None
    mode: Literal["RGB", "L"] = "RGB"

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape [c h w] of a row."""
        return len(self.mode), *self.size


@dataclass(frozen=True)
class Selection:
    """Which files become rows.

    Attributes:
        names: the file of each row.
        skipped: file → why it cannot be used.
        copies: file → the byte-identical file that is used instead.
    """

    names: list[str]
    skipped: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)


class _UnreadableError(Exception):
    """A file that is not an image, or is damaged."""


def list_files(root: Path, *suffixes: str, folders: Iterable[str] = ("",)) -> list[File]:
    """Return the files with these suffixes, sorted by name, without hidden ones.

    Args:
        root: the folder that names are relative to.
        suffixes: in lower case.
        folders: the folders to list, below the root, with slashes; by default the root itself.

    Raises:
        BenchError: if a folder cannot be read.
    """
    files = []
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(root / folder) as entries:
                files += [
                    File(prefix + entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                    for entry in entries
                    if entry.name.lower().endswith(suffixes)
                    and not entry.name.startswith(".")
                    and entry.is_file()
                ]
        except OSError as error:
            raise BenchError(f"cannot read the folder {root / folder}: {error.strerror or error}") from error
    return sorted(files)


def find_copies(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return file → byte-identical file with the smallest name, for all but the latter.

    A file that cannot be read is not a copy; decoding reports it.
    """

    def hash_content(name: str) -> str:
        try:
            return hash_file(folder / name)
        except OSError:
            return name

    ordered = sorted(names)
    first_with: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        hashes = zip(ordered, pool.map(hash_content, ordered), strict=True)
        originals = {name: first_with.setdefault(content, name) for name, content in hashes}
    return {name: original for name, original in originals.items() if name != original}


def load_decoded(
    cache: Path,
    dataset: str,
    folder: Path,
    *,
    files: Sequence[File],
    decode: DecodeSettings,
    order: Mapping[str, Any],
    select: Callable[[], Selection],
    progress: Progress = ignore_progress,
) -> tuple[UInt8[Tensor, "n c h w"], Selection]:
    """Return a dataset's images from the cache; decode them first if it has no intact ones.

    Args:
        cache: the folder of decoded images, see `cached_arrays`.
        dataset: the dataset's name, for the name of its folder.
        folder: the folder that names are relative to.
        files: all files, as listed; any change of them makes a new cache.
        decode: how each becomes a row.
        order: every setting that ``select`` depends on, as JSON values.
        select: chooses and orders the files; called only if they must be decoded.
        progress: called as images are decoded.

    Returns:
        The images, memory-mapped (slices by rows copy nothing), and the selection, in which unreadable files
        are skipped too.

    Raises:
        BenchError: if the cache cannot be written, which leaves nothing behind, or no file can be read.
    """

    def build(built: Path) -> dict[str, Any]:
        selection = select()
        logger.info("decoding %d images of %s to %d×%d px", len(selection.names), folder, *decode.size)
        unreadable = _write_rows(built / "images.npy", folder, decode, selection.names, progress)
        names = [name for name in selection.names if name not in unreadable]
        if not names:
            first = next((f"; {name}: {reason}" for name, reason in unreadable.items()), "")
            raise BenchError(f"{folder} has no readable image{first}")
        return asdict(Selection(names, {**selection.skipped, **unreadable}, selection.copies))

    identity = {"decoding": DECODING_VERSION, "decode": asdict(decode), "order": dict(order), "files": files}
    arrays, index = cached_arrays(cache, dataset, identity, build)
    return arrays["images"], Selection(**index)


def _write_rows(
    path: Path, folder: Path, decode: DecodeSettings, names: Sequence[str], progress: Progress
) -> dict[str, str]:
    """Write the rows of the readable files; return file → reason for the others."""
    unreadable: dict[str, str] = {}
    with (
        RowWriter(path, decode.row_shape, np.uint8) as images,
        ThreadPoolExecutor() as pool,  # Pillow releases the interpreter's lock
    ):
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            rows = [pool.submit(decode_image, folder / name, decode) for name in chunk]
            for name, row in zip(chunk, rows, strict=True):
                try:
                    images.append(row.result()[None])
                except _UnreadableError as error:
                    unreadable[name] = str(error)
            progress("decoding", start + len(chunk), len(names))
    return unreadable


def decode_image(path: Path, decode: DecodeSettings) -> UInt8[np.ndarray, "c h w"]:
    """Return the row of one file."""
    from PIL import Image, ImageOps

    height, width = decode.size
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.mode[0] in "IF":
                raise _UnreadableError("more than 8 bits per channel")
            upright = ImageOps.exif_transpose(image)  # as every viewer shows it
            # A palette's transparency has to be an alpha channel before Pillow drops it without a warning.
            opaque = upright.convert("RGBA") if upright.mode == "P" else upright
            whole = opaque.convert(decode.mode)
            part = whole if decode.crop is None else whole.crop(_central_box(whole.size, decode.crop))
            row = part.resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _UnreadableError("unreadable image") from error
    return np.ascontiguousarray(np.asarray(row).reshape(height, width, -1).transpose(2, 0, 1))


def _central_box(size: tuple[int, int], shares: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the central crop of an image with this width and height."""
    width, height = (max(1, round(side * share)) for side, share in zip(size, shares[::-1], strict=True))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return left, top, left + width, top + height
