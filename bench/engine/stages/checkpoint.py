"""Crafting checkpoints: the state of an interrupted crafting, in one file that is complete or missing."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import BenchError
from bench.files import require_file, write_atomically

SAVE_EVERY_S = 30.0
"""Shortest time between two saves."""

MAX_TIME_SHARE = 0.05
"""Largest share of the time that may be spent on saving."""

_DIGEST = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)


class FileCheckpoint:
    """Saves a crafting's state to a file, not too often.

    Crafting resumes only from a state of the same identity: same data, same kind of device. The file is a
    checksum and safetensors, whose metadata holds the tree of plain values that the tensors belong to.
    """

    def __init__(self, path: Path, identity: dict[str, Any], every_s: float = SAVE_EVERY_S) -> None:
        self._path, self._identity, self._every_s = path, identity, every_s
        self._due = time.monotonic() + every_s

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last; None if there is none, or if it is damaged or of another identity."""
        try:
            content = require_file(self._path).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            logger.warning("%s is damaged; crafting starts from the beginning", self._path)
            return None
        state = unpack_state(content[_DIGEST:])
        if state["identity"] != self._identity:
            logger.warning("%s belongs to other data or another device; crafting starts again", self._path)
            return None
        crafting: dict[str, Any] = state["state"]
        return crafting

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save a state, unless the last one is recent; if that fails, crafting continues without it."""
        start = time.monotonic()
        if start < self._due:
            return
        content = pack_state({"identity": self._identity, "state": state()})
        try:
            write_atomically(self._path, hashlib.sha256(content).digest() + content)
        except BenchError as error:
            logger.warning("%s; crafting continues, but if it is interrupted now, more work is lost", error)
        now = time.monotonic()
        self._due = now + max(self._every_s, (now - start) / MAX_TIME_SHARE)

    def remove(self) -> None:
        """Remove the file: the crafting is finished, even if the file cannot be removed."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a tree of mappings, sequences, tensors and plain values as bytes.

    Raises:
        TypeError: when it contains anything else.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_extract_tensors(state, tensors))
    content: bytes = save(tensors, {"tree": tree})
    return content


def unpack_state(content: bytes) -> Any:
    """Return the packed tree, tensors in host memory; tuples come back as lists, mappings as dicts."""
    from safetensors.torch import load

    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return _insert_tensors(json.loads(header["__metadata__"]["tree"]), tensors)


def _extract_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree as JSON values, with a number in place of each tensor, and collect the tensors."""
    if isinstance(value, Tensor):
        number = str(len(tensors))
        tensors[number] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": number}
    if isinstance(value, Mapping):  # as pairs, since keys may be numbers
        return {"pairs": [[key, _extract_tensors(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_extract_tensors(each, tensors) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _insert_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_insert_tensors(each, tensors) for each in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _insert_tensors(each, tensors) for key, each in value["pairs"]}
    return value
