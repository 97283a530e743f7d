"""Check that a loaded dataset is what its tasks say."""

from hashlib import blake2b

import torch
from jaxtyping import UInt8
from torch import Tensor

from bench.api import MultiTaskData, Task
from bench.tasks.depth import Depth
from bench.tasks.maps import split_maps
from bench.tasks.normals import Normals
from bench.values import MISSING, Shape, Split

SLACK = 0.01
"""How far from 1 the length of a normal may be: half precision and files of 8 bits are taken."""


def count_leaks(train: UInt8[Tensor, "n c h w"], test: UInt8[Tensor, "m c h w"]) -> int:
    """Return how many test images are equal to a training image in every pixel."""
    seen = set(map(_fingerprint, train))
    return sum(_fingerprint(image) in seen for image in test)


def _fingerprint(image: UInt8[Tensor, "c h w"]) -> bytes:
    return blake2b(image.contiguous().numpy().data, digest_size=16).digest()


def image_shape(split: Split) -> Shape:
    """Return channels, height and width of a split's images."""
    channels, height, width = split.images.shape[1:]
    return channels, height, width


class InvalidTargetError(Exception):
    """What of a loaded dataset does not hold together."""


def validate_data(data: MultiTaskData) -> None:
    """Check images and targets of both splits against the tasks.

    Raises:
        InvalidTargetError: naming the split, the task and what is wrong.
    """
    names = [task.name for task in data.tasks]
    if not names or len(set(names)) < len(names):
        raise InvalidTargetError(f"its tasks must have different names, and there must be one: {names}")
    for where, split in (("training", data.train), ("test", data.test)):
        if not len(split):
            raise InvalidTargetError(f"the {where} split has no image")
        if split.images.ndim != 4 or split.images.dtype != torch.uint8:
            raise InvalidTargetError(f"the {where} images are {_type(split.images)}, not uint8 [n c h w]")
        if set(split.targets) != set(names):
            raise InvalidTargetError(
                f"the {where} split has targets for {sorted(split.targets)}, not {names}"
            )
        for task in data.tasks:
            _check_target(task, split, f"the {where} targets of task {task.name!r}")
    if image_shape(data.train) != image_shape(data.test):
        shapes = f"{image_shape(data.train)} and {image_shape(data.test)}"
        raise InvalidTargetError(f"training and test images have different shapes: {shapes}")


def _type(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _check_target(task: Task, split: Split, what: str) -> None:
    target, count, maps = split.targets[task.name], len(split), tuple(split.images.shape[2:])
    shape = {"classification": (), "segmentation": maps, "depth": (1, *maps), "normals": (3, *maps)}[
        task.kind
    ]
    if len(target) != count:
        raise InvalidTargetError(f"{what} are {len(target)} for {count} images")
    floating = task.kind in ("depth", "normals")
    if target.shape[1:] != shape or target.is_floating_point() != floating:
        wanted = "floats" if floating else "whole numbers"
        raise InvalidTargetError(f"{what} are {_type(target)}, not {wanted} {[count, *shape]}")
    for some in split_maps(target):
        wrong = _out_of_range(task, some)
        if wrong is not None:
            raise InvalidTargetError(f"{what} have {wrong}")


def _out_of_range(task: Task, target: Tensor) -> str | None:
    """Return what in a target is not allowed, None where all is."""
    if isinstance(task, Normals):
        lengths = target.float().norm(dim=1)
        partly = target.isnan().any(1) & ~target.isnan().all(1)
        if partly.any():
            return "normals of which only a part is missing"
        return _first(lengths, lengths.isnan() | ((lengths - 1).abs() <= SLACK), "a normal of length {}")
    if isinstance(task, Depth):
        known = (target >= task.nearest) & (target <= task.farthest)
        return _first(target, target.isnan() | known, f"a distance of {{}} m, outside {value_range(task)}")
    fine = (target >= MISSING) & (target < task.classes)
    return _first(target, fine, f"a label {{}}, where {task.classes} classes are numbered from 0")


def value_range(task: Depth) -> str:
    """Return the range of distances as text."""
    return f"{task.nearest:g}-{task.farthest:g} m"


def _first(values: Tensor, fine: Tensor, sentence: str) -> str | None:
    return None if fine.all() else sentence.format(f"{values[~fine][0].item():g}")
