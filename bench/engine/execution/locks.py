"""Runs that share a folder: each claims an item before it begins with it, and none takes another's."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bench.errors import BenchError

_HERE = 0
"""The byte that every run holds together with the others for as long as it lasts."""


class ItemLocks:
    """What this run has in hand.

    Every item has a byte of one file, far beyond its end; whoever has locked it does the item. The kernel
    gives the bytes back when their process ends, however it ends, and nothing is ever written or piles up.
    The file must not be opened twice in a process: closing it once would give back everything.
    """

    def __init__(self, path: Path, tidy: Callable[[], None]) -> None:
        """Take the file, and what is to be done first where no other run is there."""
        self._path = path
        self._tidy = tidy

    def __enter__(self) -> Self:
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if self._lock(_HERE):
                self._tidy()
            fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _HERE)
        except OSError as error:
            raise BenchError(
                f"cannot lock {self._path}: {error.strerror or error}; the folder must be on a file system "
                f"with file locks"
            ) from error
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def acquire(self, key: str) -> bool:
        """Take an item in hand; return False where another run has it."""
        return self._lock(_byte(key))

    def release(self, key: str) -> None:
        """Give an item back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(key))

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # systems differ in how they say that it is locked
            return False
        return True


def _byte(key: str) -> int:
    return _HERE + 1 + int(key, 16) % 2**62
