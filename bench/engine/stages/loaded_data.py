"""Datasets in memory: loaded once per process, identified by their content, protected from the parts."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from bench.api import Dataset, MultiTaskData
from bench.engine.stages.context import RunContext
from bench.errors import BenchError
from bench.files import hash_json, require_file, write_atomically
from bench.record import is_same_data
from bench.values import Split

MAX_LOADED = 2
"""Most datasets that a process keeps."""

_HALF = 16
"""Hexadecimal digits of each half of a fingerprint."""

_FINGERPRINT = re.compile(f"[0-9a-f]{{{2 * _HALF}}}")

_Key = tuple[Dataset, Path | None, Path]
"""A dataset, its data root and the folder of decoded images."""

_loaded: dict[_Key, MultiTaskData] = {}
_seen: dict[_Key, str] = {}
"""The fingerprints of all datasets that were loaded in this run, also of those that are not kept."""

_fingerprints: WeakKeyDictionary[MultiTaskData, str] = WeakKeyDictionary()
_hashes: WeakKeyDictionary[Split, str] = WeakKeyDictionary()


def load_dataset(part: Dataset, run_context: RunContext) -> MultiTaskData:
    """Load a dataset, once per process.

    Raises:
        BenchError: when it has to be loaded again and is not what it was.
    """
    key = (part, run_context.data_root, run_context.cache)
    if key not in _loaded:
        data = part.load(*key[1:])
        if _seen.setdefault(key, fingerprint(data)) != fingerprint(data):
            raise BenchError(
                f"{part} is not what it was when this run first read it: its files have changed, or a part "
                "wrote to images or labels that the dataset itself keeps; start the run again"
            )
        if len(_loaded) >= MAX_LOADED:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = data
    return _loaded[key]


def forget_files() -> None:
    """Forget the datasets that were read from files, which may have changed since an earlier run."""
    for key in [key for key in _seen if needs_files(key[0])]:
        _loaded.pop(key, None)
        del _seen[key]


def needs_files(part: Dataset) -> bool:
    """Return whether a dataset is read from a data root; others are identified by their parameters."""
    return part.missing(None) is not None


def fingerprint(data: MultiTaskData) -> str:
    """Return a hash of all that results depend on: images and labels of both splits, tasks, augmentation.

    The first half is the hash of the training images and labels alone, which is all that earlier versions
    noted.
    """
    if data not in _fingerprints:
        layouts = [_layout(split) for split in (data.train, data.test)]
        rest = hash_json([hash_split(data.test), layouts, _describe_tasks(data), asdict(data.augmentation)])
        _fingerprints[data] = hash_split(data.train) + rest[:_HALF]
    return _fingerprints[data]


def cached_fingerprint(data: MultiTaskData) -> str:
    """Return the fingerprint; if the images are mapped from the cache, it is computed once and kept there."""
    if data.cached_in is None:
        return fingerprint(data)
    labels = [
        [name, _hash_tensors(target)]
        for split in (data.train, data.test)
        for name, target in sorted(split.targets.items())
        if target.ndim == 1  # larger ones are mapped from the same folder
    ]
    settings = hash_json([labels, _describe_tasks(data), asdict(data.augmentation)])
    path = data.cached_in / f"fingerprint-{settings[:_HALF]}.txt"
    with contextlib.suppress(OSError, ValueError):
        if _FINGERPRINT.fullmatch(known := require_file(path).read_text("ascii")):
            return known
    with contextlib.suppress(BenchError):  # a cache that cannot be written to
        write_atomically(path, fingerprint(data))
    return fingerprint(data)


def hash_split(split: Split) -> str:
    """Return a hash of a split's images and labels, computed once."""
    if split not in _hashes:
        _hashes[split] = _hash_content(split)
    return _hashes[split]


def _hash_content(split: Split) -> str:
    return _hash_tensors(split.images, *(split.targets[name] for name in sorted(split.targets)))


def _hash_tensors(*tensors: Tensor) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        for chunk in tensor.split(1024):
            content.update(chunk.contiguous().numpy().data)
    return content.hexdigest()[:_HALF]


def _describe_tasks(data: MultiTaskData) -> list[list[object]]:
    return [[task.name, task.kind, task.outputs] for task in data.tasks]


def _layout(split: Split) -> list[list[object]]:
    """Return name, type and shape of each tensor, as JSON values."""
    tensors = {**split.targets, "": split.images}
    return [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)]


def require_same_data(about: Mapping[str, Any], data: MultiTaskData, what: str) -> None:
    """Check that something stored was made from this data.

    Args:
        about: what is known about it; earlier versions noted less of the data, or nothing.
        data: the data as it is now.
        what: what it is and where, for the message.

    Raises:
        BenchError: when it was not.
    """
    if not is_same_data(fingerprint(data), about.get("data", "")):
        raise BenchError(
            f"{what} was made from other data than what is read now; repeat the run, with another --out if "
            "the old results must stay"
        )


@contextlib.contextmanager
def reject_writes(split: Split, who: str) -> Iterator[None]:
    """Check that a part leaves images and labels as they are; other items use the same ones.

    Raises:
        BenchError: naming the part, if they have changed. The datasets of this process are then forgotten, so
            that the next item reads them again.
    """
    before = _checksum_split(split), _layout(split)
    try:
        yield
    finally:
        if not _is_unchanged(split, before):
            for forgotten in (_loaded, _fingerprints, _hashes):
                forgotten.clear()
            raise BenchError(f"{who} writes to the images or labels that it is given; change a copy of them")


def _is_unchanged(split: Split, before: tuple[list[str], list[list[object]]]) -> bool:
    try:
        return (_checksum_split(split), _layout(split)) == before
    except (AttributeError, RuntimeError, TypeError):  # there is something else in place of a tensor
        return False


def _checksum_split(split: Split) -> list[str]:
    return [
        _checksum(tensor)
        for tensor in (split.images, *(split.targets[name] for name in sorted(split.targets)))
    ]


def _checksum(tensor: Tensor) -> str:
    """Return what changes when somebody writes to a tensor; several times as fast as a hash of its bytes.

    It hashes the sums of all rows and of all columns of blocks of 64 by 64 words, and what is left after the
    last block. So it sees values that are changed, moved or exchanged, unless somebody hides it on purpose.
    """
    content, flat = hashlib.sha256(), tensor.contiguous().numpy().reshape(-1).view(np.uint8)
    whole = flat.size - flat.size % _BLOCK_BYTES
    blocks = flat[:whole].view(np.int64).reshape(-1, _BLOCK, _BLOCK)
    for part in (blocks.sum(1), blocks.sum(2), flat[whole:]):
        content.update(part.data)
    return content.hexdigest()


_BLOCK = 64
_BLOCK_BYTES = 8 * _BLOCK**2
