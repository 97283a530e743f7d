"""Atomic file writes, and hashes."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from bench.errors import BenchError


def hash_json(value: object) -> str:
    """Return the SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a temporary file and rename it, so that a reader sees either the old file or the new one.

    Raises:
        BenchError: if the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it does not exist if its folder is a file
            temporary.unlink()
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error


def flush_to_disk(path: Path) -> None:
    """Wait until a file is on the disk, so that a folder with its final name has complete files."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, which may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
