"""Count the images and labels of a dataset."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from bench.api import MultiTaskData, Task
from bench.dataset_report.validate import format_depth_range, validate_data
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.maps import split_maps
from bench.tasks.normals import SECTORS, Normals
from bench.tasks.segmentation import Segmentation
from bench.values import DENSE, MISSING, Augmentation, Kind, Shape

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""The quantiles of depth that are reported."""

HISTOGRAM_BINS = 1000
"""Quantiles of depth are exact to one bin."""

TILTS = ("→↘", "↘↓", "↓↙", "↙←", "←↖", "↖↑", "↑↗", "↗→")
"""The directions in the image between which a surface is tilted, per sector of `Normals.class_labels`."""

MAX_NAMES = 20
"""A remark names no more classes than this."""

_PIXEL_LABELS: dict[Kind, str] = {"segmentation": "a class", "depth": "a distance", "normals": "a direction"}

_SPLIT_NAMES = {"train": "training", "test": "test"}


@dataclass(frozen=True)
class LabelCounts:
    """Labels of one split.

    Attributes:
        per_class: number of images or pixels with each class.
        missing: number of those without a label.
    """

    per_class: tuple[int, ...]
    missing: int

    @property
    def labeled(self) -> int:
        """Number of images or pixels with a label."""
        return sum(self.per_class)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of every class among those with a label."""
        return tuple(count / max(1, self.labeled) for count in self.per_class)

    @property
    def missing_share(self) -> float:
        """Share of images or pixels without a label."""
        return self.missing / max(1, self.labeled + self.missing)


@dataclass(frozen=True)
class TaskStatistics:
    """One task.

    Attributes:
        name: the task's name.
        kind: the task's kind.
        details: phrases on its labels.
        class_names: one per class; for depth intervals, for normals directions.
        train: labels of the training split, per image or, for dense tasks, per pixel.
        test: those of the test split.
        floor: metric → score of a constant prediction, None if the metric is undefined.
        quantiles: split → the `QUANTILES` of its depths in meters; empty for other tasks.
        remarks: sentences on what cannot be learned or scored.
    """

    name: str
    kind: str
    details: tuple[str, ...]
    class_names: tuple[str, ...]
    train: LabelCounts
    test: LabelCounts
    floor: Mapping[str, float | None]
    quantiles: Mapping[str, tuple[float, ...]]
    remarks: tuple[str, ...]

    @property
    def is_binary(self) -> bool:
        """Whether it is a classification with two classes."""
        return self.kind == "classification" and len(self.class_names) == 2

    @property
    def unit(self) -> str:
        """What is counted."""
        return "pixels" if self.kind in DENSE else "images"


@dataclass(frozen=True)
class DatasetStatistics:
    """A dataset.

    Attributes:
        name: its name in a suite.
        train_images: number of training images.
        test_images: number of test images.
        shape: of an image [c h w].
        augmentation: what its labels allow.
        tasks: one entry per task.
        leaks: number of test images that are pixel-identical to a training image.
        notes: the dataset's own.
    """

    name: str
    train_images: int
    test_images: int
    shape: Shape
    augmentation: Augmentation
    tasks: tuple[TaskStatistics, ...]
    leaks: int
    notes: tuple[str, ...]

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a heading and a fact about the images."""
        channels, height, width = self.shape
        crop = self.augmentation.crop
        network_input = f"{crop}×{crop} crops" if crop else "whole images"
        return (
            ("training images", f"{self.train_images:,}"),
            ("test images", f"{self.test_images:,}"),
            ("height × width", f"{height}×{width} px"),
            ("channels", str(channels)),
            ("network input", network_input + (", flips" if self.augmentation.flip else "")),
            ("test images also in training split", f"{self.leaks:,}" if self.leaks else "none"),
        )


def compute_statistics(name: str, data: MultiTaskData) -> DatasetStatistics:
    """Check a loaded dataset and count its images and labels.

    Args:
        name: the dataset's name in a suite.
        data: what it loaded.

    Raises:
        BenchError: naming the dataset and its first problem, see `validate_data`.
    """
    validate_data(name, data)
    channels, height, width = data.train.images.shape[1:]
    return DatasetStatistics(
        name=name,
        train_images=len(data.train),
        test_images=len(data.test),
        shape=(channels, height, width),
        augmentation=data.augmentation,
        tasks=tuple(_task_statistics(task, data) for task in data.tasks),
        leaks=count_leaks(data.train.images, data.test.images),
        notes=data.notes,
    )


def count_leaks(train: UInt8[Tensor, "n c h w"], test: UInt8[Tensor, "m c h w"]) -> int:
    """Return how many test images are equal to a training image in every pixel."""
    fingerprints = set(map(_fingerprint, train))
    return sum(_fingerprint(image) in fingerprints for image in test)


def _fingerprint(image: UInt8[Tensor, "c h w"]) -> bytes:
    return blake2b(image.contiguous().numpy().data, digest_size=16).digest()


def _task_statistics(task: Task, data: MultiTaskData) -> TaskStatistics:
    targets = {"train": data.train.targets[task.name], "test": data.test.targets[task.name]}
    counts = {split: _count_labels(task, target) for split, target in targets.items()}
    quantiles = {}
    if isinstance(task, Depth):
        quantiles = {
            split: _depth_quantiles(task, target)
            for split, target in targets.items()
            if counts[split].labeled
        }
    return TaskStatistics(
        name=task.name,
        kind=task.kind,
        details=tuple(_details(task)),
        class_names=_class_names(task),
        train=counts["train"],
        test=counts["test"],
        floor=_defined_floor(task.describe(*targets.values()), counts["test"]),
        quantiles=quantiles,
        remarks=tuple(_remarks(task, counts)),
    )


def _details(task: Task) -> Iterator[str]:
    if task.kind in DENSE:
        yield f"{_PIXEL_LABELS[task.kind]} per pixel"
    if isinstance(task, Classification | Segmentation):
        yield f"{task.classes} classes"
    if isinstance(task, Depth):
        yield format_depth_range(task)
    if isinstance(task, Normals):
        yield "counted by the direction in which the surface is tilted"
        if task.derived:
            yield "derived from depth, not measured"


def _count_labels(task: Task, target: Tensor) -> LabelCounts:
    counts = torch.zeros(task.classes + 1, dtype=torch.long)
    for chunk in split_maps(target):
        labels = chunk if chunk.is_floating_point() else chunk.long()  # maps of classes are kept as int8
        classes: Int64[Tensor, "b ..."] = task.class_labels(labels)
        counts += torch.bincount(classes.flatten() - MISSING, minlength=task.classes + 1)
    missing, *per_class = counts.tolist()
    return LabelCounts(tuple(per_class), missing)


def _depth_quantiles(task: Depth, target: Float[Tensor, "n 1 h w"]) -> tuple[float, ...]:
    counts = torch.zeros(HISTOGRAM_BINS, dtype=torch.double)
    for chunk in split_maps(target):
        known = chunk[~chunk.isnan()].float()
        counts += torch.histc(known, HISTOGRAM_BINS, task.nearest, task.farthest).double()
    cumulative = counts.cumsum(0)
    bins = torch.searchsorted(cumulative, cumulative[-1] * torch.tensor(QUANTILES, dtype=torch.double))
    middles = bins.clamp(max=HISTOGRAM_BINS - 1) + 0.5
    return tuple((task.nearest + (task.farthest - task.nearest) * middles / HISTOGRAM_BINS).tolist())


def _class_names(task: Task) -> tuple[str, ...]:
    if isinstance(task, Classification | Segmentation):
        return task.class_names
    if isinstance(task, Depth):
        edges = torch.linspace(task.nearest, task.farthest, task.classes + 1).tolist()
        return tuple(f"{near:.4g}-{far:.4g} m" for near, far in pairwise(edges))
    if isinstance(task, Normals) and len(TILTS) == SECTORS:
        return (*TILTS, "facing")
    return tuple(map(str, range(task.classes)))


def _defined_floor(description: Mapping[str, Any], test: LabelCounts) -> dict[str, float | None]:
    """Return the floors of the headline metric and of the metric that is scored."""
    occurring = sum(count > 0 for count in test.per_class)
    metrics = dict.fromkeys((description["headline"], description["scored"]))
    return {
        metric: description["floor"][metric] if occurring >= (2 if metric == "auroc" else 1) else None
        for metric in metrics
    }


def _remarks(task: Task, counts: Mapping[str, LabelCounts]) -> Iterator[str]:
    for split, name in _SPLIT_NAMES.items():
        if not counts[split].labeled:
            yield f"the {name} split has no label" + (
                ", so every score is undefined" if split == "test" else ""
            )
        elif isinstance(task, Classification | Segmentation) and not all(counts[split].per_class):
            absent = _format_absent_classes(task, counts[split])
            effect = f"; {_effect_on_scores(task, counts[split])}" if split == "test" else ""
            yield f"not in the {name} split: {absent}{effect}"


def _effect_on_scores(task: Task, test: LabelCounts) -> str:
    if isinstance(task, Segmentation):
        return "mIoU is the mean over the others"
    if sum(count > 0 for count in test.per_class) > 1:
        return "balanced accuracy and AUROC are means over the others"
    return "AUROC is undefined, and a constant prediction of the only class scores 1"


def _format_absent_classes(task: Classification | Segmentation, counts: LabelCounts) -> str:
    names = [repr(name) for name, n in zip(task.class_names, counts.per_class, strict=True) if not n]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
