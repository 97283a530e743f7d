"""How far a long crafting has come, in one file that is whole or not there."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import BenchError
from bench.files import write_atomically

SAVE_EVERY_S = 30.0
"""Least time between two savings."""

MAX_TIME_SHARE = 0.05
"""Largest share of the time that may go into saving."""

_DIGEST = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)


class FileCheckpoint:
    """Keeps a crafting's state in a file, not too often.

    Only states of the same identity are taken up: same data, same kind of device. The file is a checksum and
    safetensors, whose metadata says where in the tree of plain values each tensor belongs.
    """

    def __init__(self, path: Path, identity: dict[str, Any], every_s: float = SAVE_EVERY_S) -> None:
        self._path, self._identity, self._every_s = path, identity, every_s
        self._due = time.monotonic() + every_s

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last; None where there is none, or none that is sound and fits."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            logger.warning("%s is damaged; the crafting starts anew", self._path)
            return None
        state = unpack_state(content[_DIGEST:])
        return state["state"] if state["identity"] == self._identity else None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save a state, unless the last one is recent; without room for it, crafting goes on without."""
        start = time.monotonic()
        if start < self._due:
            return
        content = pack_state({"identity": self._identity, "state": state()})
        try:
            write_atomically(self._path, hashlib.sha256(content).digest() + content)
        except BenchError as error:
            logger.warning("%s; a kill would lose more of the crafting", error)
        now = time.monotonic()
        self._due = now + max(self._every_s, (now - start) / MAX_TIME_SHARE)

    def remove(self) -> None:
        """Remove the file: the crafting is finished."""
        self._path.unlink(missing_ok=True)


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a tree of mappings, sequences, tensors and plain values as bytes.

    Raises:
        TypeError: when there is anything else in it.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_take_out(state, tensors))
    written: bytes = save(tensors, {"tree": tree})
    return written


def unpack_state(content: bytes) -> Any:
    """Return the tree that was packed, tensors in host memory; tuples and mappings of any kind are plain."""
    from safetensors.torch import load

    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return _put_back(json.loads(header["__metadata__"]["tree"]), tensors)


def _take_out(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return JSON that says what stands where, tensors by the number under which they are put aside."""
    if isinstance(value, Tensor):
        number = str(len(tensors))
        tensors[number] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": number}
    if isinstance(value, Mapping):  # as pairs, since keys may be numbers
        return {"pairs": [[key, _take_out(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_out(each, tensors) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a checkpoint keeps tensors and plain values, not {type(value).__name__}")


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_back(each, tensors) for each in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_back(each, tensors) for key, each in value["pairs"]}
    return value
