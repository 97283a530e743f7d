"""Check that a loaded dataset is what its tasks say."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.api import MultiTaskData, Task
from bench.errors import BenchError
from bench.tasks.depth import Depth
from bench.tasks.maps import split_maps
from bench.tasks.normals import Normals
from bench.values import MISSING, Split

LENGTH_TOLERANCE = 0.01
"""How far the length of a normal may be from 1: half precision and 8-bit files pass."""


def validate_data(name: str, data: MultiTaskData) -> None:
    """Check the images and targets of both splits against the tasks.

    Args:
        name: the dataset's name in a suite.
        data: what it loaded.

    Raises:
        BenchError: naming the dataset, the split, the task and the first problem.
    """
    problem = next(_problems(data), None)  # a check may rely on those before it
    if problem is not None:
        raise BenchError(f"dataset {name!r}: {problem}")


def format_depth_range(task: Depth) -> str:
    """Return the range of distances as text."""
    return f"{task.nearest:g}-{task.farthest:g} m"


def _problems(data: MultiTaskData) -> Iterator[str]:
    names = [task.name for task in data.tasks]
    if not names or len(set(names)) < len(names):
        yield f"there must be at least one task, each with a name of its own: {names}"
    for name, split in (("training", data.train), ("test", data.test)):
        if not len(split):
            yield f"the {name} split has no image"
        if split.images.ndim != 4 or split.images.dtype != torch.uint8:
            yield f"the {name} images are {_format_type(split.images)}, not uint8 [n c h w]"
        if set(split.targets) != set(names):
            yield f"the {name} split has targets for {sorted(split.targets)}, not {names}"
        for task in data.tasks:
            for problem in _target_problems(task, split):
                yield f"the {name} targets of task {task.name!r} {problem}"
    train_shape, test_shape = (tuple(split.images.shape[1:]) for split in (data.train, data.test))
    if train_shape != test_shape:
        yield f"training and test images have different shapes: {train_shape} and {test_shape}"


def _format_type(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _target_problems(task: Task, split: Split) -> Iterator[str]:
    target, count, size = split.targets[task.name], len(split), tuple(split.images.shape[2:])
    shapes = {"classification": (), "segmentation": size, "depth": (1, *size), "normals": (3, *size)}
    shape, is_float = shapes[task.kind], task.kind in ("depth", "normals")
    if len(target) != count:
        yield f"are {len(target)} for {count} images"
    if target.shape[1:] != shape or target.is_floating_point() != is_float:
        yield f"are {_format_type(target)}, not {'floats' if is_float else 'integers'} {[count, *shape]}"
    for chunk in split_maps(target):
        yield from _value_problems(task, chunk)


def _value_problems(task: Task, target: Tensor) -> Iterator[str]:
    if isinstance(task, Normals):
        missing = target.isnan()
        if (missing.any(1) & ~missing.all(1)).any():
            yield "have normals of which only a part is missing"
        values = target.float().norm(dim=1)
        valid = values.isnan() | ((values - 1).abs() <= LENGTH_TOLERANCE)
        sentence = "have a normal of length {}"
    elif isinstance(task, Depth):
        values = target
        valid = target.isnan() | ((target >= task.nearest) & (target <= task.farthest))
        sentence = f"have a distance of {{}} m, outside {format_depth_range(task)}"
    else:
        values = target
        valid = (target >= MISSING) & (target < task.classes)
        sentence = f"have a label {{}}, but the {task.classes} classes are numbered from 0"
    if not valid.all():
        yield sentence.format(f"{values[~valid][0].item():g}")
