"""Surface normals: one direction per pixel."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from bench.tasks.maps import score_constant, share_of_pixels, split_maps
from bench.tasks.protocol import MISSING, Kind, Scorer

SECTORS = 8
"""Number of classes of directions, besides the class of surfaces that face the camera."""

FACING = 30.0
"""Angle in degrees to the line of sight below which a normal faces the camera."""

ANGLES = (11.25, 22.5, 30.0)
"""Angles in degrees below which normals count as right; `Normals.share_wrong` uses the largest."""


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
        """Sectors, and one class for surfaces that face the camera."""
        return SECTORS + 1

    @property
    def outputs(self) -> int:
        """Three outputs, of which only the direction matters."""
        return 3

    def loss(self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean of 1 - cos of the angle over the labeled pixels, 0 if there are none."""
        known = _labeled_pixels(target)
        return ((1 - _cosine(outputs, target)) * known).sum() / known.sum().clamp(min=1)

    def share_wrong(
        self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the share of labeled pixels that are off by the largest of `ANGLES` or more."""
        right = _cosine(outputs, target) > math.cos(math.radians(ANGLES[-1]))
        return share_of_pixels(~right, _labeled_pixels(target))

    def labeled(self, target: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labeled pixel."""
        return _labeled_pixels(target).flatten(1).any(1)

    def without_labels(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return maps without labels."""
        return torch.full_like(target, math.nan)

    def shifted(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the opposite direction."""
        return -target

    def class_labels(self, target: Float[Tensor, "b 3 h w"]) -> Int64[Tensor, "b h w"]:
        """Return the sector a surface leans to, or the last class if it faces the camera."""
        x, y, z = target.nan_to_num().unbind(1)
        turn = (torch.atan2(y, x) / (2 * math.pi)) % 1
        sector = (turn * SECTORS).long().clamp(max=SECTORS - 1)
        facing = -z > math.cos(math.radians(FACING))
        return torch.where(_labeled_pixels(target), torch.where(facing, SECTORS, sector), MISSING)

    def mirrored(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the directions with x negated."""
        return torch.cat([-target[:, :1], target[:, 1:]], dim=1)

    def scorer(self) -> Scorer:
        """Return an empty scorer of ``loss``, mean and median angle, and the shares within `ANGLES`."""
        return _NormalsScorer(self)

    def describe(self, train: Float[Tensor, "n 3 h w"], test: Float[Tensor, "m 3 h w"]) -> dict[str, Any]:
        """Return the task's `bench.record.TaskInfo`; the floor is the mean direction of the training set."""
        total = sum((some.float().nan_to_num().sum((0, 2, 3)) for some in split_maps(train)), torch.zeros(3))
        floor = score_constant(self, functional.normalize(total, dim=0)[:, None, None], test)
        perfect = {"mean_angle": 0.0, "median_angle": 0.0} | {_within_metric(angle): 1.0 for angle in ANGLES}
        return {
            "kind": self.kind,
            "derived": self.derived,
            "headline": "mean_angle",
            "scored": "mean_angle",
            "floor": {metric: floor[metric] for metric in perfect},
            "perfect": perfect,
            "test": int(self.labeled(test).sum()),
        }


class _NormalsScorer:
    """Sums, and a histogram of the angles that gives their median to a hundredth of a degree."""

    _STEPS = 18000

    def __init__(self, task: Normals) -> None:
        from bench.tasks.metrics import MeanMetric

        self._task = task
        self._loss, self._angle = MeanMetric(nan_strategy="ignore"), MeanMetric(nan_strategy="ignore")
        self._within_limits = {angle: MeanMetric(nan_strategy="ignore") for angle in ANGLES}
        self._counts = torch.zeros(self._STEPS, dtype=torch.double)
        self._finite = True

    def update(self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> None:
        self._finite &= bool(outputs.isfinite().all())
        cosines = _cosine(outputs, target)[_labeled_pixels(target)]
        if not len(cosines):
            return
        angles = cosines.clamp(-1, 1).acos().rad2deg()
        for metric, values in [
            (self._loss, 1 - cosines),
            (self._angle, angles),
            *((self._within_limits[limit], (angles < limit).float()) for limit in ANGLES),
        ]:
            # In double precision: a mean over millions of pixels.
            metric.to(outputs.device).update(values.double().mean(), len(values))
        # Counted with bincount, since CUDA's histogram is not deterministic.
        bins = (angles * self._STEPS / 180).long().clamp(0, self._STEPS - 1)
        self._counts += bins.bincount(minlength=self._STEPS).cpu()

    def compute(self) -> dict[str, float | None]:
        names = ("loss", "mean_angle", "median_angle", *map(_within_metric, ANGLES))
        count = self._counts.sum()
        if not self._finite or not count:
            return dict.fromkeys(names)
        middle = int(torch.searchsorted(self._counts.cumsum(0), count / 2))
        return {
            "loss": float(self._loss.compute()),
            "mean_angle": float(self._angle.compute()),
            "median_angle": (middle + 0.5) * 180 / self._STEPS,
            **{_within_metric(limit): float(self._within_limits[limit].compute()) for limit in ANGLES},
        }


def _within_metric(angle: float) -> str:
    return f"within_{angle:g}".replace(".", "_")


def _labeled_pixels(target: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
    return ~target.isnan().any(1)


def _cosine(outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    return functional.cosine_similarity(outputs, target.nan_to_num(), dim=1)
