"""Writing files so that a reader sees the old file or the new one, and hashes of what is in them."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from bench.errors import BenchError


def hash_json(value: object) -> str:
    """Return the SHA-256 of a JSON value in its canonical spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file aside and rename it, so that a reader sees the old file or the new one.

    Raises:
        BenchError: when the folder cannot be written to.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # below a file there is nothing to remove
            aside.unlink()
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()
