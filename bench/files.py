"""Files that are safe to read, safe writes, and hashes."""

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from bench.errors import BenchError


class NotAFileError(OSError):
    """A folder, a pipe or a device is where a file should be."""

    def __str__(self) -> str:
        return str(self.strerror)


def require_file(path: Path) -> Path:
    """Return the path of a regular file. All files are read through this: opening a pipe could wait forever.

    A pipe that this process was started with, such as ``/dev/stdin`` or ``/dev/fd/63``, is one as well.

    Raises:
        NotAFileError: if it is anything else.
        OSError: if there is nothing.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and str(path).startswith(_OPEN_FILES)):
        return path
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
    raise NotAFileError(errno.EINVAL, f"it is {kind}, not a file", str(path))


_OPEN_FILES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


class FolderInPlaceError(BenchError):
    """A folder has the name of a file that should be written."""


def hash_json(value: object) -> str:
    """Return the SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes, *, flush: bool = True) -> None:
    """Write a temporary file and rename it, so that a reader sees either the old file or the new one.

    The new file has the permissions of the old one.

    Args:
        path: of the file.
        content: of the file.
        flush: wait until it is on the disk; without, a power failure may leave an empty file.

    Raises:
        FolderInPlaceError: if a folder has its name.
        BenchError: if the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # x: a link that somebody has put there is not followed
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it does not exist if its folder is a file
            temporary.unlink()
        if path.is_dir():
            raise FolderInPlaceError(f"cannot write {path}: a folder has this name; move it away") from error
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error


def make_writable_folder(folder: Path) -> None:
    """Make a folder, unless it exists, and write to it once.

    Raises:
        OSError: if that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(b"probe")
    finally:
        probe.unlink(missing_ok=True)


def write_output(path: Path, output: str | bytes) -> None:
    """Write bytes, or a text and a newline at its end, to where a user wants it.

    Links are followed. A regular file is replaced as `write_atomically` does. A device or a pipe is written
    to, and so is the file that standard output or standard error goes to.

    Raises:
        BenchError: if it cannot be written.
        BrokenPipeError: if the reader of a pipe has closed it.
    """
    if isinstance(output, str):
        output = (output if output.endswith("\n") else output + "\n").encode(errors="replace")
    try:
        file = _open_in_place(path)
        if file is not None:
            with file:
                file.write(output)
            return
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error
    write_atomically(Path(os.path.realpath(path)), output)


def _open_in_place(path: Path) -> BinaryIO | None:
    """Open a file that must not be replaced; return None if it may be, or if there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(state, os.fstat(number)):
                stream.flush()
                return os.fdopen(os.dup(number), "wb")
    return None if stat.S_ISREG(state.st_mode) else path.open("wb")


def remove_own_folder(folder: Path, files: Iterable[Path]) -> None:
    """Remove files of a folder, and the folder if it then is empty; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for path in files:
            path.unlink(missing_ok=True)
        folder.rmdir()


def flush_to_disk(path: Path) -> None:
    """Wait until a file is on the disk, so that a folder with its final name has complete files."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, which may be larger than memory."""
    with require_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
