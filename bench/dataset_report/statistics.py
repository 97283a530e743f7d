"""Count the images and labels of a dataset."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bench.api import MultiTaskData, Task
from bench.dataset_report.validate import (
    InvalidTargetError,
    count_leaks,
    image_shape,
    validate_data,
    value_range,
)
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.maps import split_maps
from bench.tasks.normals import SECTORS, Normals
from bench.tasks.segmentation import Segmentation
from bench.values import DENSE, MISSING, Augmentation, Kind, Shape

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Those told of depths."""

STEPS = 1000
"""Quantiles of depths are exact to this part of the range."""

LEANINGS = ("→↘", "↘↓", "↓↙", "↙←", "←↖", "↖↑", "↑↗", "↗→")
"""Between which directions of the image a surface leans, per sector of `Normals.classify`."""

FEW = 20
"""A line names no more classes than this."""

_ASKED: dict[Kind, str] = {"segmentation": "a class", "depth": "a distance", "normals": "a direction"}

METRIC_NAMES = {
    "auroc": "AUROC",
    "miou": "mIoU",
    "absolute_error": "absolute error (m)",
    "mean_angle": "mean angle (°)",
}


@dataclass(frozen=True)
class Counts:
    """Labels of one split.

    Attributes:
        classes: how many images, or pixels, have each class.
        missing: how many have none.
    """

    classes: tuple[int, ...]
    missing: int

    @property
    def labeled(self) -> int:
        """How many have a label."""
        return sum(self.classes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of every class its share of what has a label."""
        return tuple(count / max(1, self.labeled) for count in self.classes)

    @property
    def missing_share(self) -> float:
        """Share of what has no label."""
        return self.missing / max(1, self.labeled + self.missing)


@dataclass(frozen=True)
class TaskStatistics:
    """One task.

    Attributes:
        name: the task's name.
        kind: the task's kind.
        about: what it asks for, and what is to be known of that.
        class_names: one per class; those of depth and normals are intervals and directions.
        train: labels of the training split, per image or, of dense tasks, per pixel.
        test: those of the test split.
        floor: metric → what a constant answer reaches, None where the metric is undefined.
        quantiles: split → the `QUANTILES` of its depths in meters; empty for other tasks.
        remarks: a sentence on everything that cannot be learned or scored.
    """

    name: str
    kind: str
    about: tuple[str, ...]
    class_names: tuple[str, ...]
    train: Counts
    test: Counts
    floor: Mapping[str, float | None]
    quantiles: Mapping[str, tuple[float, ...]]
    remarks: tuple[str, ...]

    @property
    def binary(self) -> bool:
        """It is a classification with two classes, told in one line."""
        return self.kind == "classification" and len(self.class_names) == 2

    @property
    def unit(self) -> str:
        """What is counted."""
        return "pixels" if self.kind in DENSE else "images"


@dataclass(frozen=True)
class DatasetStatistics:
    """A dataset.

    Attributes:
        name: the dataset as a suite names it.
        train: number of training images.
        test: number of test images.
        shape: of an image [c h w].
        augmentation: what its labels allow.
        tasks: one sheet each.
        leaks: test images that are, pixel for pixel, training images.
        notes: the dataset's own.
    """

    name: str
    train: int
    test: int
    shape: Shape
    augmentation: Augmentation
    tasks: tuple[TaskStatistics, ...]
    leaks: int
    notes: tuple[str, ...]

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is said of the images, by heading."""
        channels, height, width = self.shape
        crop = self.augmentation.crop
        seen = f"{crop}×{crop} crops" if crop else "whole images"
        return (
            ("training images", f"{self.train:,}"),
            ("test images", f"{self.test:,}"),
            ("height × width", f"{height}×{width} px"),
            ("channels", str(channels)),
            ("networks see", seen + (", flips" if self.augmentation.flip else "")),
            ("test images that are training images", f"{self.leaks:,}" if self.leaks else "none"),
        )


def compute_statistics(name: str, data: MultiTaskData) -> DatasetStatistics:
    """Check a loaded dataset and count what is in it.

    Args:
        name: the dataset as a suite names it.
        data: what it loaded.

    Raises:
        BenchError: naming the dataset and the first thing that does not hold together.
    """
    try:
        validate_data(data)
    except InvalidTargetError as error:
        raise BenchError(f"dataset {name!r}: {error}") from error
    return DatasetStatistics(
        name=name,
        train=len(data.train),
        test=len(data.test),
        shape=image_shape(data.train),
        augmentation=data.augmentation,
        tasks=tuple(_task_statistics(task, data) for task in data.tasks),
        leaks=count_leaks(data.train.images, data.test.images),
        notes=data.notes,
    )


def _task_statistics(task: Task, data: MultiTaskData) -> TaskStatistics:
    targets = data.train.targets[task.name], data.test.targets[task.name]
    train, test = (_count(task, target) for target in targets)
    quantiles = {}
    if isinstance(task, Depth):
        quantiles = {
            split: _quantiles(task, target)
            for split, target in zip(("train", "test"), targets, strict=True)
            if not target.isnan().all()
        }
    return TaskStatistics(
        name=task.name,
        kind=task.kind,
        about=tuple(_about(task)),
        class_names=_class_names(task),
        train=train,
        test=test,
        floor=_floor(task, task.describe(*targets), test),
        quantiles=quantiles,
        remarks=tuple(_remarks(task, train, test)),
    )


def _about(task: Task) -> Iterator[str]:
    if task.kind in DENSE:
        yield f"{_ASKED[task.kind]} per pixel"
    if isinstance(task, Classification | Segmentation):
        yield f"{task.classes} classes"
    if isinstance(task, Depth):
        yield value_range(task)
    if isinstance(task, Normals):
        yield "counted by where in the image the surface leans"
        if task.derived:
            yield "derived from depth, not measured"


def _count(task: Task, target: Tensor) -> Counts:
    counts = torch.zeros(task.classes + 1, dtype=torch.long)
    for some in split_maps(target):
        labels = some if some.is_floating_point() else some.long()  # maps of classes are kept as int8
        classes: Int64[Tensor, "b ..."] = task.class_labels(labels)
        counts += torch.bincount(classes.flatten() - MISSING, minlength=task.classes + 1)
    missing, *found = counts.tolist()
    return Counts(tuple(found), missing)


def _quantiles(task: Depth, target: Float[Tensor, "n 1 h w"]) -> tuple[float, ...]:
    counts = torch.zeros(STEPS, dtype=torch.double)
    for some in split_maps(target):
        counts += torch.histc(some[~some.isnan()].float(), STEPS, task.nearest, task.farthest).double()
    below = counts.cumsum(0)
    steps = torch.searchsorted(below, below[-1] * torch.tensor(QUANTILES, dtype=torch.double))
    middles = task.nearest + (task.farthest - task.nearest) * (steps.clamp(max=STEPS - 1) + 0.5) / STEPS
    return tuple(middles.tolist())


def _class_names(task: Task) -> tuple[str, ...]:
    if isinstance(task, Classification | Segmentation):
        return task.class_names
    if isinstance(task, Depth):
        edges = torch.linspace(task.nearest, task.farthest, task.classes + 1).tolist()
        return tuple(f"{near:.4g}-{far:.4g} m" for near, far in pairwise(edges))
    if isinstance(task, Normals) and len(LEANINGS) == SECTORS:
        return (*LEANINGS, "facing")
    return tuple(map(str, range(task.classes)))


def _floor(task: Task, info: Mapping[str, Any], test: Counts) -> dict[str, float | None]:
    """Return the floors of the metric that is scored and of the headline, of what is defined."""
    occurring = sum(count > 0 for count in test.classes)
    floor: dict[str, float | None] = {}
    for metric in dict.fromkeys((info["headline"], info["scored"])):
        defined = occurring >= (2 if metric == "auroc" else 1)
        floor[metric] = info["floor"][metric] if defined else None
    return floor


def _remarks(task: Task, train: Counts, test: Counts) -> Iterator[str]:
    for where, counts in (("training", train), ("test", test)):
        if not counts.labeled:
            yield f"nothing in the {where} split has a label" + (
                ": every score is undefined" if counts is test else ""
            )
    if not isinstance(task, Classification | Segmentation):
        return
    if train.labeled and not all(train.classes):
        yield f"not in the training split: {_absent(task, train)}"
    if not test.labeled or all(test.classes):
        return
    absent = f"not in the test split: {_absent(task, test)}"
    if isinstance(task, Segmentation):
        yield f"{absent}; mIoU is the mean over the others"
    elif sum(count > 0 for count in test.classes) > 1:
        yield f"{absent}; balanced accuracy and AUROC are means over the others"
    else:
        yield f"{absent}; AUROC is undefined, and always answering the one class that is there scores 1"


def _absent(task: Classification | Segmentation, counts: Counts) -> str:
    names = [repr(name) for name, count in zip(task.class_names, counts.classes, strict=True) if not count]
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
