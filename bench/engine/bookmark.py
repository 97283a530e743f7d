"""How far a long crafting has come, in one file that is whole or not there."""

import hashlib
import io
import logging
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError
from bench.record import write_atomically

EVERY_S = 30.0
"""Least time between two savings."""

SHARE = 0.05
"""Largest share of the time that may go into saving."""

_DIGEST = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)


class FileBookmark:
    """Keeps a crafting's state in a file, not too often.

    Only states of the same identity are taken up: same data, same kind of device. The file is read with
    torch's restricted unpickler, which makes tensors and plain values only.
    """

    def __init__(self, path: Path, identity: dict[str, Any], every_s: float = EVERY_S) -> None:
        self._path, self._identity, self._every_s = path, identity, every_s
        self._due = time.monotonic() + every_s

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last; None where there is none, or none that is sound and fits."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        body = content[_DIGEST:]
        if hashlib.sha256(body).digest() != content[:_DIGEST]:
            logger.warning("%s is damaged; the crafting starts anew", self._path)
            return None
        try:
            saved = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            logger.warning("%s cannot be read (%s); the crafting starts anew", self._path, error)
            return None
        state: dict[str, Any] = saved["state"]
        return state if saved["identity"] == self._identity else None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save a state, unless the last one is recent; without room for it, crafting goes on without."""
        start = time.monotonic()
        if start < self._due:
            return
        body = io.BytesIO()
        torch.save({"identity": self._identity, "state": state()}, body)
        content = body.getvalue()
        try:
            write_atomically(self._path, hashlib.sha256(content).digest() + content)
        except BenchError as error:
            logger.warning("%s; a kill would lose more of the crafting", error)
        now = time.monotonic()
        self._due = now + max(self._every_s, (now - start) / SHARE)

    def remove(self) -> None:
        """Remove the file: the crafting is finished."""
        self._path.unlink(missing_ok=True)
