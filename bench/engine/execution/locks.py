"""Locks for runs that share a folder: each locks an item before it starts it, and no two do the same item."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bench.errors import BenchError
from bench.files import require_file

_ALIVE = 0
"""The byte that all runs share a lock on, each until it ends."""


class ItemLocks:
    """The locks that this run holds.

    Every item has a byte of one file, far beyond its end; the run that has locked it does the item. The
    kernel releases the bytes when their process ends, however it ends, and nothing is ever written to the
    file. It must not be opened twice in a process: closing it once would release all locks.
    """

    def __init__(self, path: Path, clean_up: Callable[[], None]) -> None:
        """Take the file, and a function to call first if no other run uses the folder."""
        self._path = path
        self._clean_up = clean_up

    def __enter__(self) -> Self:
        try:
            if self._path.exists():
                require_file(self._path)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if self._try_lock(_ALIVE):
                self._clean_up()
            fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _ALIVE)
        except OSError as error:
            raise BenchError(
                f"cannot lock {self._path}: {error.strerror or error}; the folder must be on a file system "
                f"with file locks"
            ) from error
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def acquire(self, key: str) -> bool:
        """Lock an item; return False if another run has locked it."""
        return self._try_lock(_byte(key))

    def release(self, key: str) -> None:
        """Unlock an item."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(key))

    def _try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # systems differ in the error for a locked byte
            return False
        return True


def _byte(key: str) -> int:
    return _ALIVE + 1 + int(key, 16) % 2**62
