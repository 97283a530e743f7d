"""Dense tasks, which ask for a value at every pixel: segmentation, depth and surface normals.

Losses and metrics are the multi-task literature's (Liu et al., CVPR 2019, arXiv:1803.10704, MTAN; LibMTL).
All are means over the labelled pixels, whatever image they are in.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional

from bench.api import MISSING, Kind, Scorer
from bench.tasks import shifted

CHUNK = 2**24
"""Values of a set of maps that are worked on together; changes memory and speed, not results."""

BINS = 8
"""Classes into which depths are sorted for class-wise noise."""

SECTORS = 8
"""The same for normals: directions they lean to, beside those that face the camera."""

FACING = 30.0
"""Angle in degrees to the line of sight below which a normal faces the camera."""

ANGLES = (11.25, 22.5, 30.0)
"""Angles in degrees below which normals are counted as right; the largest is that of `Normals.wrong`."""


@dataclass(frozen=True)
class Segmentation:
    """One class per pixel.

    Source: loss and metrics as in Liu et al., CVPR 2019, arXiv:1803.10704 (MTAN)

    Attributes:
        name: the task's name.
        class_names: one per class, in the order of the labels 0, 1, ...
    """

    name: str
    class_names: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """It asks for a class at every pixel."""
        return "segmentation"

    @property
    def classes(self) -> int:
        """Number of classes k."""
        return len(self.class_names)

    @property
    def outputs(self) -> int:
        """One output per class."""
        return self.classes

    def loss(self, outputs: Float[Tensor, "b k h w"], target: Int64[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over the labelled pixels, 0 where there is none."""
        # CUDA adds the pixels up in no certain order, unless that is left to another operation.
        apart = torch.are_deterministic_algorithms_enabled()
        losses = functional.cross_entropy(
            outputs, target, ignore_index=MISSING, reduction="none" if apart else "sum"
        )
        return losses.sum() / (target != MISSING).sum().clamp(min=1)

    def wrong(self, outputs: Float[Tensor, "b k h w"], target: Int64[Tensor, "b h w"]) -> Float[Tensor, " b"]:
        """Return the share of labelled pixels that are given another class."""
        return _share(outputs.argmax(1) != target, target != MISSING)

    def labelled(self, target: Int[Tensor, "b h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labelled pixel."""
        return (target != MISSING).flatten(1).any(1)

    def hidden(self, target: Int[Tensor, "b h w"]) -> Int[Tensor, "b h w"]:
        """Return maps without labels."""
        return torch.full_like(target, MISSING)

    def shifted(self, target: Int64[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
        """Return (y + ⌊k/2⌋) mod k for every label, missing ones as they are."""
        return shifted(target, self.classes)

    def classify(self, target: Int64[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
        """Return the labels themselves."""
        return target

    def mirrored(self, target: Tensor) -> Tensor:
        """Return the labels themselves."""
        return target

    def scorer(self) -> Scorer:
        """Return an empty scorer of ``loss``, ``miou`` and ``pixel_accuracy``."""
        return _SegmentationScorer(self)

    def describe(self, train: Int[Tensor, "n h w"], test: Int[Tensor, "m h w"]) -> dict[str, Any]:
        """Return the task's `bench.record.TaskInfo`; the floor is the training set's commonest class."""
        commonest = self._count(train).argmax()
        counted = self._count(test)
        share = float(counted[commonest] / counted.sum().clamp(min=1))
        occurring = int((counted > 0).sum())
        return {
            "kind": self.kind,
            "classes": self.classes,
            "headline": "miou",
            "scored": "miou",
            "floor": {"miou": share / max(1, occurring), "pixel_accuracy": share},
            "perfect": {"miou": 1.0, "pixel_accuracy": 1.0},
            "test": int(self.labelled(test).sum()),
        }

    def _count(self, maps: Int[Tensor, "n h w"]) -> Int64[Tensor, " k"]:
        counts = torch.zeros(self.classes + 1, dtype=torch.long)
        for some in chunks(maps):
            counts += torch.bincount(some.flatten().long() - MISSING, minlength=self.classes + 1)
        return counts[1:]


# Means are taken with nan_strategy="ignore": without any strategy torchmetrics 1.9 also ignores the weights.
# What is not finite makes all metrics undefined anyway.


class _SegmentationScorer:
    def __init__(self, task: Segmentation) -> None:
        from bench.metrics import MeanMetric, MulticlassAccuracy, MulticlassJaccardIndex

        self._task = task
        self._loss = MeanMetric(nan_strategy="ignore")
        self._overlaps = MulticlassJaccardIndex(
            task.classes, average="none", ignore_index=MISSING, validate_args=False
        )
        self._accuracy = MulticlassAccuracy(
            task.classes, average="micro", ignore_index=MISSING, validate_args=False
        )
        self._occurring = torch.zeros(task.classes, dtype=torch.bool)
        self._finite = True

    def update(self, outputs: Float[Tensor, "b k h w"], target: Int64[Tensor, "b h w"]) -> None:
        self._finite &= bool(outputs.isfinite().all())
        for metric in (self._loss, self._overlaps, self._accuracy):
            metric.to(outputs.device)
        labelled = target != MISSING
        self._loss.update(self._task.loss(outputs, target), labelled.sum())
        predicted = outputs.argmax(1)
        self._overlaps.update(predicted, target)
        self._accuracy.update(predicted, target)
        self._occurring[target[labelled].unique().cpu()] = True

    def compute(self) -> dict[str, float | None]:
        if not self._finite or not self._occurring.any():
            return dict.fromkeys(("loss", "miou", "pixel_accuracy"))
        overlaps = self._overlaps.compute().cpu()
        return {
            "loss": float(self._loss.compute()),
            "miou": float(overlaps[self._occurring].mean()),
            "pixel_accuracy": float(self._accuracy.compute()),
        }


@dataclass(frozen=True)
class Depth:
    """The distance of every pixel, in metres.

    Source: loss and metrics as in Liu et al., CVPR 2019, arXiv:1803.10704 (MTAN)

    Attributes:
        name: the task's name.
        nearest: the smallest distance there is, in metres.
        farthest: the largest one.
    """

    name: str
    nearest: float = 0.0
    farthest: float = 10.0

    @property
    def kind(self) -> Kind:
        """It asks for a distance at every pixel."""
        return "depth"

    @property
    def classes(self) -> int:
        """Equal intervals of distance."""
        return BINS

    @property
    def outputs(self) -> int:
        """One output: metres."""
        return 1

    def loss(self, outputs: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute error over the labelled pixels, 0 where there is none."""
        known = ~target.isnan()
        errors = (outputs - target.nan_to_num()).abs() * known
        return errors.sum() / known.sum().clamp(min=1)

    def wrong(
        self, outputs: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the share of labelled pixels that are off by a factor of 1.25 or more."""
        right = (outputs < 1.25 * target) & (1.25 * outputs > target)
        return _share(~right, ~target.isnan())

    def labelled(self, target: Float[Tensor, "b 1 h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labelled pixel."""
        return (~target.isnan()).flatten(1).any(1)

    def hidden(self, target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return maps without labels."""
        return torch.full_like(target, math.nan)

    def shifted(self, target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return the distance half of the range away, as half of the classes are in a classification."""
        span = self.farthest - self.nearest
        return (target - self.nearest + span / 2) % span + self.nearest

    def classify(self, target: Float[Tensor, "b 1 h w"]) -> Int64[Tensor, "b h w"]:
        """Return which of `BINS` equal intervals a distance lies in."""
        share = (target[:, 0] - self.nearest) / (self.farthest - self.nearest)
        bins = (share.nan_to_num() * BINS).long().clamp(0, BINS - 1)
        return torch.where(share.isnan(), MISSING, bins)

    def mirrored(self, target: Tensor) -> Tensor:
        """Return the distances themselves."""
        return target

    def scorer(self) -> Scorer:
        """Return an empty scorer of ``loss``, ``absolute_error`` (metres) and ``relative_error``."""
        return _DepthScorer()

    def describe(self, train: Float[Tensor, "n 1 h w"], test: Float[Tensor, "m 1 h w"]) -> dict[str, Any]:
        """Return the task's `bench.record.TaskInfo`; the floor is the median of the training set."""
        constant = self._median(train)
        scorer = self.scorer()
        for some in chunks(test):
            target = some.float()
            scorer.update(torch.full_like(target, constant), target)
        floor = scorer.compute()
        return {
            "kind": self.kind,
            "headline": "absolute_error",
            "scored": "absolute_error",
            "floor": {metric: floor[metric] or 0.0 for metric in ("absolute_error", "relative_error")},
            "perfect": {"absolute_error": 0.0, "relative_error": 0.0},
            "test": int(self.labelled(test).sum()),
        }

    def _median(self, maps: Float[Tensor, "n 1 h w"]) -> float:
        """Return the median distance, to a thousandth of the range."""
        steps = 1000
        counts = torch.zeros(steps)
        for some in chunks(maps):
            counts += torch.histc(some[~some.isnan()].float(), steps, self.nearest, self.farthest)
        below = counts.cumsum(0)
        middle = int(torch.searchsorted(below, below[-1] / 2))
        return self.nearest + (self.farthest - self.nearest) * (min(middle, steps - 1) + 0.5) / steps


class _DepthScorer:
    def __init__(self) -> None:
        from bench.metrics import MeanAbsoluteError, MeanAbsolutePercentageError

        self._absolute, self._relative = MeanAbsoluteError(), MeanAbsolutePercentageError()
        self._finite, self._known = True, 0

    def update(self, outputs: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> None:
        self._finite &= bool(outputs.isfinite().all())
        known = ~target.isnan()
        if known.any():
            self._known += int(known.sum())
            for metric in (self._absolute, self._relative):
                metric.to(outputs.device).update(outputs[known], target[known])

    def compute(self) -> dict[str, float | None]:
        if not self._finite or not self._known:
            return dict.fromkeys(("loss", "absolute_error", "relative_error"))
        absolute = float(self._absolute.compute())
        relative = float(self._relative.compute())
        return {"loss": absolute, "absolute_error": absolute, "relative_error": relative}


@dataclass(frozen=True)
class Normals:
    """The direction of the surface at every pixel.

    Source: loss and metrics as in Liu et al., CVPR 2019, arXiv:1803.10704 (MTAN)

    Attributes:
        name: the task's name.
        derived: the truth was computed from depth, not measured.
    """

    name: str
    derived: bool = False

    @property
    def kind(self) -> Kind:
        """It asks for a direction at every pixel."""
        return "normals"

    @property
    def classes(self) -> int:
        """Sectors, and one class for what faces the camera."""
        return SECTORS + 1

    @property
    def outputs(self) -> int:
        """Three outputs, whose direction counts."""
        return 3

    def loss(self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean of 1 - cos of the angle over the labelled pixels, 0 where there is none."""
        known = _known(target)
        return ((1 - _cosine(outputs, target)) * known).sum() / known.sum().clamp(min=1)

    def wrong(
        self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the share of labelled pixels that are off by the largest of `ANGLES` or more."""
        right = _cosine(outputs, target) > math.cos(math.radians(ANGLES[-1]))
        return _share(~right, _known(target))

    def labelled(self, target: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labelled pixel."""
        return _known(target).flatten(1).any(1)

    def hidden(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return maps without labels."""
        return torch.full_like(target, math.nan)

    def shifted(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the opposite direction, the farthest there is."""
        return -target

    def classify(self, target: Float[Tensor, "b 3 h w"]) -> Int64[Tensor, "b h w"]:
        """Return the sector a surface leans to, or the last class if it faces the camera."""
        x, y, z = target.nan_to_num().unbind(1)
        turn = (torch.atan2(y, x) / (2 * math.pi)) % 1
        sector = (turn * SECTORS).long().clamp(max=SECTORS - 1)
        facing = -z > math.cos(math.radians(FACING))
        return torch.where(_known(target), torch.where(facing, SECTORS, sector), MISSING)

    def mirrored(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the directions with x turned round."""
        return target * target.new_tensor([-1.0, 1.0, 1.0])[:, None, None]

    def scorer(self) -> Scorer:
        """Return an empty scorer of ``loss``, mean and median angle, and the shares within `ANGLES`."""
        return _NormalsScorer(self)

    def describe(self, train: Float[Tensor, "n 3 h w"], test: Float[Tensor, "m 3 h w"]) -> dict[str, Any]:
        """Return the task's `bench.record.TaskInfo`; the floor is the mean direction of the training set."""
        total = sum((some.float().nan_to_num().sum((0, 2, 3)) for some in chunks(train)), torch.zeros(3))
        constant = functional.normalize(total, dim=0)[:, None, None]
        scorer = self.scorer()
        for some in chunks(test):
            target = some.float()
            scorer.update(constant.expand_as(target), target)
        floor = scorer.compute()
        perfect = {"mean_angle": 0.0, "median_angle": 0.0} | {_within(angle): 1.0 for angle in ANGLES}
        return {
            "kind": self.kind,
            "derived": self.derived,
            "headline": "mean_angle",
            "scored": "mean_angle",
            "floor": {metric: floor[metric] or 0.0 for metric in perfect},
            "perfect": perfect,
            "test": int(self.labelled(test).sum()),
        }


class _NormalsScorer:
    """Sums, and a histogram of the angles that gives their median to a hundredth of a degree."""

    _STEPS = 18000

    def __init__(self, task: Normals) -> None:
        from bench.metrics import MeanMetric

        self._task = task
        self._loss, self._angle = MeanMetric(nan_strategy="ignore"), MeanMetric(nan_strategy="ignore")
        self._within = {angle: MeanMetric(nan_strategy="ignore") for angle in ANGLES}
        self._counts = torch.zeros(self._STEPS, dtype=torch.double)
        self._finite = True

    def update(self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> None:
        self._finite &= bool(outputs.isfinite().all())
        cosines = _cosine(outputs, target)[_known(target)]
        if not len(cosines):
            return
        angles = cosines.clamp(-1, 1).acos().rad2deg()
        for metric, values in [
            (self._loss, 1 - cosines),
            (self._angle, angles),
            *((self._within[limit], (angles < limit).float()) for limit in ANGLES),
        ]:
            # In double precision: a mean over millions of pixels.
            metric.to(outputs.device).update(values.double().mean(), len(values))
        # Counted, since CUDA's histogram is refused where bits have to repeat.
        bins = (angles * self._STEPS / 180).long().clamp(0, self._STEPS - 1)
        self._counts += bins.bincount(minlength=self._STEPS).cpu()

    def compute(self) -> dict[str, float | None]:
        names = ("loss", "mean_angle", "median_angle", *map(_within, ANGLES))
        count = self._counts.sum()
        if not self._finite or not count:
            return dict.fromkeys(names)
        middle = int(torch.searchsorted(self._counts.cumsum(0), count / 2))
        return {
            "loss": float(self._loss.compute()),
            "mean_angle": float(self._angle.compute()),
            "median_angle": (middle + 0.5) * 180 / self._STEPS,
            **{_within(limit): float(self._within[limit].compute()) for limit in ANGLES},
        }


def _within(angle: float) -> str:
    return f"within_{angle:g}".replace(".", "_")


def _known(target: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
    return ~target.isnan().any(1)


def _cosine(outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    return functional.cosine_similarity(outputs, target.nan_to_num(), dim=1)


def _share(wrong: Bool[Tensor, "b ..."], known: Bool[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Return, per sample, the share of known pixels that are wrong."""
    return (wrong & known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def chunks(maps: Tensor) -> Iterator[Tensor]:
    """Yield a set of maps some at a time, as all of them together may not fit in memory."""
    yield from maps.split(max(1, CHUNK // max(1, maps[:1].numel())))
