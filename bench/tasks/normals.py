"""Surface normals: one direction per pixel."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from bench.tasks.maps import share_of_pixels, split_maps
from bench.tasks.protocol import MISSING, Kind, Scorer

SECTORS = 8
"""The same for normals: directions they lean to, beside those that face the camera."""

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
        """Sectors, and one class for what faces the camera."""
        return SECTORS + 1

    @property
    def outputs(self) -> int:
        """Three outputs, whose direction counts."""
        return 3

    def loss(self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean of 1 - cos of the angle over the labeled pixels, 0 where there is none."""
        known = _known(target)
        return ((1 - _cosine(outputs, target)) * known).sum() / known.sum().clamp(min=1)

    def share_wrong(
        self, outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the share of labeled pixels that are off by the largest of `ANGLES` or more."""
        right = _cosine(outputs, target) > math.cos(math.radians(ANGLES[-1]))
        return share_of_pixels(~right, _known(target))

    def labeled(self, target: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labeled pixel."""
        return _known(target).flatten(1).any(1)

    def without_labels(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return maps without labels."""
        return torch.full_like(target, math.nan)

    def shifted(self, target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the opposite direction, the farthest there is."""
        return -target

    def class_labels(self, target: Float[Tensor, "b 3 h w"]) -> Int64[Tensor, "b h w"]:
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
        total = sum((some.float().nan_to_num().sum((0, 2, 3)) for some in split_maps(train)), torch.zeros(3))
        constant = functional.normalize(total, dim=0)[:, None, None]
        scorer = self.scorer()
        for some in split_maps(test):
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
            "test": int(self.labeled(test).sum()),
        }


class _NormalsScorer:
    """Sums, and a histogram of the angles that gives their median to a hundredth of a degree."""

    _STEPS = 18000

    def __init__(self, task: Normals) -> None:
        from bench.tasks.metrics import MeanMetric

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
