"""Decode image files once, so that only the first load of a dataset waits for it.

A dataset lists its files, chooses how they are decoded and which file becomes which row, and gets uint8 rows
[n c h w]. `bench.datasets.cache` keeps them under a key of the decoding, of the settings that order the rows,
and of every file's path, size and modification time: an added, removed or changed file makes a new folder.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from bench.datasets.cache import RowWriter, cached_arrays
from bench.datasets.image_files import (
    IMAGE_SUFFIXES,
    DecodeSettings,
    UnreadableImageError,
    WrongAspectError,
    decode_image,
    quiet_image_libraries,
)
from bench.errors import BenchError
from bench.files import hash_file
from bench.text import escape_bytes
from bench.values import Progress, ignore_progress

DECODING_VERSION = 3
"""Version of the decoding, raised when its pixels change."""

CHUNK = 256
"""Images that are decoded before they are written; bounds the memory of a first load."""

MAX_DEPTH: Final = 3
"""How far below a dataset's folder images are looked for."""

logger = logging.getLogger("bench")


class File(NamedTuple):
    """A file of a listed folder: its path below the folder, with slashes, size and modification time."""

    name: str
    size: int
    mtime_ns: int


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


def list_files(root: Path, *suffixes: str, folders: Iterable[str] = ("",)) -> list[File]:
    """Return the files with these suffixes, sorted by name, without hidden ones.

    Those whose names are not UTF-8 are left out, with a warning: no table of labels can name them.

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
    named = [file for file in files if file.name == escape_bytes(file.name)]
    if len(named) < len(files):
        odd = min({*files} - {*named}).name
        count = len(files) - len(named)
        logger.warning("%s: %d files whose names are not UTF-8 are left out; rename %a", root, count, odd)
    return sorted(named)


def list_images(root: Path) -> tuple[Path, list[File]]:
    """Return all images in a folder and up to `MAX_DEPTH` levels below it, without hidden ones.

    Returns:
        The innermost folder that holds all of them, and the files, named from there and sorted by name.

    Raises:
        BenchError: if a folder cannot be read.
    """
    files: list[File] = []
    folders = [""]
    for _ in range(MAX_DEPTH + 1):
        files += list_files(root, *IMAGE_SUFFIXES, folders=folders)
        folders = [below for folder in folders for below in _list_subfolders(root, folder)]
    if not files:
        return root, []
    inner = os.path.commonpath([os.path.dirname(file.name) for file in files])  # noqa: PTH120
    start = len(inner) + 1 if inner else 0
    return root / inner, sorted(file._replace(name=file.name[start:]) for file in files)


def _list_subfolders(root: Path, folder: str) -> list[str]:
    """Return the folders in a folder, both below the root, with slashes; not those that systems add."""
    prefix = f"{folder}/" if folder else ""
    with os.scandir(root / folder) as entries:
        return [
            prefix + entry.name
            for entry in entries
            if not entry.name.startswith((".", "__MACOSX")) and entry.is_dir()
        ]


def split_name(name: str) -> tuple[str, str]:
    """Return a file's own name and its folder, which sorts files by their names, whatever their folder."""
    folder, _, base = name.rpartition("/")
    return base, folder


def find_copies(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return file → byte-identical file with the smallest name, whatever its folder, for all but the latter.

    A file that cannot be read is not a copy; decoding reports it.
    """

    def hash_content(name: str) -> str:
        try:
            return hash_file(folder / name)
        except OSError:
            return name

    ordered = sorted(names, key=split_name)
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
) -> tuple[UInt8[Tensor, "n c h w"], Selection, Path]:
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
        The images, memory-mapped (slices by rows copy nothing), the selection, in which unreadable files are
        skipped too, and the folder that the images are mapped from.

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

    identity = {
        "decoding": DECODING_VERSION,
        "decode": asdict(decode),
        "order": dict(order),
        "folder": str(folder.resolve()),
        "files": files,
    }
    arrays, index, cached_in = cached_arrays(cache, dataset, identity, build)
    return arrays["images"], Selection(**index), cached_in


def _write_rows(
    path: Path, folder: Path, decode: DecodeSettings, names: Sequence[str], progress: Progress
) -> dict[str, str]:
    """Write the rows of the readable files; return file → reason for the others."""
    unreadable: dict[str, str] = {}
    misshapen = 0
    with (
        quiet_image_libraries(),
        RowWriter(path, decode.row_shape, np.uint8) as images,
        ThreadPoolExecutor() as pool,  # Pillow releases the interpreter's lock
    ):
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            rows = [pool.submit(decode_image, folder / name, decode) for name in chunk]
            for name, row in zip(chunk, rows, strict=True):
                try:
                    images.append(row.result()[None])
                except UnreadableImageError as error:
                    unreadable[name] = str(error)
                    misshapen += isinstance(error, WrongAspectError)
            done = start + len(chunk)
            if 2 * misshapen > done:
                example = next(f"{name}: {unreadable[name]}" for name in chunk if name in unreadable)
                raise BenchError(
                    f"{folder} does not hold the aligned and cropped images: {misshapen} of the first {done}"
                    f" have another shape ({example})"
                )
            progress("decoding", done, len(names))
    return unreadable
