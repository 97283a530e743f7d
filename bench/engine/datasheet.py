"""What a loaded dataset holds, checked and counted, for people to read before they run anything on it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from tabulate import tabulate
from torch import Tensor

from bench.api import DENSE, MISSING, Augmentation, Kind, MultiTaskData, Shape, Split, Task
from bench.dense import SECTORS, Depth, Normals, Segmentation, chunks
from bench.errors import BenchError
from bench.tasks import Classification

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Those told of depths."""

STEPS = 1000
"""Quantiles of depths are exact to this part of the range."""

SLACK = 0.01
"""How far from 1 the length of a normal may be: half precision and files of 8 bits are taken."""

LEANINGS = ("→↘", "↘↓", "↓↙", "↙←", "←↖", "↖↑", "↑↗", "↗→")
"""Between which directions of the image a surface leans, per sector of `Normals.classify`."""

FEW = 20
"""A line names no more classes than this."""

_ASKED: dict[Kind, str] = {"segmentation": "a class", "depth": "a distance", "normals": "a direction"}

_METRICS = {
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
    def labelled(self) -> int:
        """How many have a label."""
        return sum(self.classes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of every class its share of what has a label."""
        return tuple(count / max(1, self.labelled) for count in self.classes)

    @property
    def missing_share(self) -> float:
        """Share of what has no label."""
        return self.missing / max(1, self.labelled + self.missing)


@dataclass(frozen=True)
class TaskSheet:
    """One task.

    Attributes:
        name: the task's name.
        kind: the task's kind.
        about: what it asks for, and what is to be known of that.
        class_names: one per class; those of depth and normals are intervals and directions.
        train: labels of the training split, per image or, of dense tasks, per pixel.
        test: those of the test split.
        floor: metric → what a constant answer reaches, None where the metric is undefined.
        quantiles: split → the `QUANTILES` of its depths in metres; empty for other tasks.
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
class DataSheet:
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
    tasks: tuple[TaskSheet, ...]
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


def read_sheet(name: str, data: MultiTaskData) -> DataSheet:
    """Check a loaded dataset and count what is in it.

    Args:
        name: the dataset as a suite names it.
        data: what it loaded.

    Raises:
        BenchError: naming the dataset and the first thing that does not hold together.
    """
    try:
        _check(data)
    except _UnsoundError as error:
        raise BenchError(f"dataset {name!r}: {error}") from error
    return DataSheet(
        name=name,
        train=len(data.train),
        test=len(data.test),
        shape=_shape(data.train),
        augmentation=data.augmentation,
        tasks=tuple(_task_sheet(task, data) for task in data.tasks),
        leaks=count_leaks(data.train.images, data.test.images),
        notes=data.notes,
    )


def count_leaks(train: UInt8[Tensor, "n c h w"], test: UInt8[Tensor, "m c h w"]) -> int:
    """Return how many test images are equal to a training image in every pixel."""
    seen = set(map(_fingerprint, train))
    return sum(_fingerprint(image) in seen for image in test)


def _fingerprint(image: UInt8[Tensor, "c h w"]) -> bytes:
    return blake2b(image.contiguous().numpy().data, digest_size=16).digest()


def _shape(split: Split) -> Shape:
    channels, height, width = split.images.shape[1:]
    return channels, height, width


class _UnsoundError(Exception):
    """What of a loaded dataset does not hold together."""


def _check(data: MultiTaskData) -> None:
    names = [task.name for task in data.tasks]
    if not names or len(set(names)) < len(names):
        raise _UnsoundError(f"its tasks must have different names, and there must be one: {names}")
    for where, split in (("training", data.train), ("test", data.test)):
        if not len(split):
            raise _UnsoundError(f"the {where} split has no image")
        if split.images.ndim != 4 or split.images.dtype != torch.uint8:
            raise _UnsoundError(f"the {where} images are {_type(split.images)}, not uint8 [n c h w]")
        if set(split.targets) != set(names):
            raise _UnsoundError(f"the {where} split has targets for {sorted(split.targets)}, not {names}")
        for task in data.tasks:
            _check_target(task, split, f"the {where} targets of task {task.name!r}")
    if _shape(data.train) != _shape(data.test):
        shapes = f"{_shape(data.train)} and {_shape(data.test)}"
        raise _UnsoundError(f"training and test images have different shapes: {shapes}")


def _type(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _check_target(task: Task, split: Split, what: str) -> None:
    target, count, maps = split.targets[task.name], len(split), tuple(split.images.shape[2:])
    shape = {"classification": (), "segmentation": maps, "depth": (1, *maps), "normals": (3, *maps)}[
        task.kind
    ]
    if len(target) != count:
        raise _UnsoundError(f"{what} are {len(target)} for {count} images")
    floating = task.kind in ("depth", "normals")
    if target.shape[1:] != shape or target.is_floating_point() != floating:
        wanted = "floats" if floating else "whole numbers"
        raise _UnsoundError(f"{what} are {_type(target)}, not {wanted} {[count, *shape]}")
    for some in chunks(target):
        wrong = _out_of_range(task, some)
        if wrong is not None:
            raise _UnsoundError(f"{what} have {wrong}")


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
        return _first(target, target.isnan() | known, f"a distance of {{}} m, outside {_range(task)}")
    fine = (target >= MISSING) & (target < task.classes)
    return _first(target, fine, f"a label {{}}, where {task.classes} classes are numbered from 0")


def _range(task: Depth) -> str:
    return f"{task.nearest:g}-{task.farthest:g} m"


def _first(values: Tensor, fine: Tensor, sentence: str) -> str | None:
    return None if fine.all() else sentence.format(f"{values[~fine][0].item():g}")


def _task_sheet(task: Task, data: MultiTaskData) -> TaskSheet:
    targets = data.train.targets[task.name], data.test.targets[task.name]
    train, test = (_count(task, target) for target in targets)
    quantiles = {}
    if isinstance(task, Depth):
        quantiles = {
            split: _quantiles(task, target)
            for split, target in zip(("train", "test"), targets, strict=True)
            if not target.isnan().all()
        }
    return TaskSheet(
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
        yield _range(task)
    if isinstance(task, Normals):
        yield "counted by where in the image the surface leans"
        if task.derived:
            yield "derived from depth, not measured"


def _count(task: Task, target: Tensor) -> Counts:
    counts = torch.zeros(task.classes + 1, dtype=torch.long)
    for some in chunks(target):
        classes: Int64[Tensor, "b ..."] = task.classify(some).long()
        counts += torch.bincount(classes.flatten() - MISSING, minlength=task.classes + 1)
    missing, *found = counts.tolist()
    return Counts(tuple(found), missing)


def _quantiles(task: Depth, target: Float[Tensor, "n 1 h w"]) -> tuple[float, ...]:
    counts = torch.zeros(STEPS, dtype=torch.double)
    for some in chunks(target):
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
        if not counts.labelled:
            yield f"nothing in the {where} split has a label" + (
                ": every score is undefined" if counts is test else ""
            )
    if not isinstance(task, Classification | Segmentation):
        return
    if train.labelled and not all(train.classes):
        yield f"not in the training split: {_absent(task, train)}"
    if not test.labelled or all(test.classes):
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


def render_text(sheet: DataSheet) -> str:
    """Return the sheet as text for a terminal."""
    lines = [sheet.name, "", tabulate([(f"{what}:", value) for what, value in sheet.facts], tablefmt="plain")]
    binary = [task for task in sheet.tasks if task.binary]
    if binary:
        lines += ["", _binary_table(binary)]
    for task in sheet.tasks:
        if not task.binary:
            lines += ["", *_task_lines(task)]
    said = [f"{task.name}: {remark}" for task in sheet.tasks for remark in task.remarks]
    said += sheet.notes
    if sheet.leaks:
        said.append(
            f"leak: {sheet.leaks:,} of {sheet.test:,} test images are, pixel for pixel, training images"
        )
    return "\n".join([*lines, "", *(f"note: {sentence}" for sentence in said)]).rstrip("\n")


def spell_floor(floor: Mapping[str, float | None]) -> str:
    """Return floors as ``accuracy 0.812, balanced accuracy 0.500``."""
    return ", ".join(
        f"{_METRICS.get(metric, metric.replace('_', ' '))} "
        + ("undefined" if value is None else f"{value:.3f}")
        for metric, value in floor.items()
    )


def _binary_table(tasks: Sequence[TaskSheet]) -> str:
    rows = [
        (
            task.name,
            task.class_names[1],
            *_cells(task.train, 1),
            *_cells(task.test, 1),
            f"{task.train.missing:,} + {task.test.missing:,}",
            spell_floor(task.floor),
        )
        for task in tasks
    ]
    headers = ("task", "class", "train", "%", "test", "%", "without label", "floor")
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 5, "left"))


def _cells(counts: Counts, label: int) -> tuple[str, str]:
    return f"{counts.classes[label]:,}", f"{100 * counts.shares[label]:.1f}"


def _task_lines(task: TaskSheet) -> Iterator[str]:
    yield f"{task.name}: {', '.join(task.about)}; floor: {spell_floor(task.floor)}"
    rows = [
        (name, *_cells(task.train, label), *_cells(task.test, label))
        for label, name in enumerate(task.class_names)
    ]
    missing = [(f"{some.missing:,}", f"({100 * some.missing_share:.1f})") for some in (task.train, task.test)]
    rows.append(("without label", *missing[0], *missing[1]))
    headers = (f"{task.unit} with", "train", "%", "test", "%")
    yield tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 4))
    for split, values in task.quantiles.items():
        spelled = ", ".join(f"{100 * q:g} % {value:.2f}" for q, value in zip(QUANTILES, values, strict=True))
        yield f"quantiles of {split} in metres: {spelled}"
