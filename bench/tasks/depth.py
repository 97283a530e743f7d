"""Depth: one distance per pixel."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bench.tasks.maps import score_constant, share_of_pixels, split_maps
from bench.tasks.protocol import MISSING, Kind, Scorer

BINS = 8
"""Number of classes into which depths are divided for class-wise noise."""


@dataclass(frozen=True)
class Depth:
    """The distance of every pixel, in meters.

    Source: loss and metrics as in Liu et al., CVPR 2019, arXiv:1803.10704 (MTAN)

    Attributes:
        name: the task's name.
        nearest: the smallest distance there is, in meters.
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
        """One output: meters."""
        return 1

    def loss(self, outputs: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute error over the labeled pixels, 0 if there are none."""
        known = ~target.isnan()
        errors = (outputs - target.nan_to_num()).abs() * known
        return errors.sum() / known.sum().clamp(min=1)

    def share_wrong(
        self, outputs: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the share of labeled pixels that are off by a factor of 1.25 or more."""
        right = (outputs < 1.25 * target) & (1.25 * outputs > target)
        return share_of_pixels(~right, ~target.isnan())

    def labeled(self, target: Float[Tensor, "b 1 h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labeled pixel."""
        return (~target.isnan()).flatten(1).any(1)

    def without_labels(self, target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return maps without labels."""
        return torch.full_like(target, math.nan)

    def shifted(self, target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return the distance half of the range away, as classifications are shifted by half the classes."""
        span = self.farthest - self.nearest
        return (target - self.nearest + span / 2) % span + self.nearest

    def class_labels(self, target: Float[Tensor, "b 1 h w"]) -> Int64[Tensor, "b h w"]:
        """Return which of `BINS` equal intervals a distance lies in."""
        share = (target[:, 0] - self.nearest) / (self.farthest - self.nearest)
        bins = (share.nan_to_num() * BINS).long().clamp(0, BINS - 1)
        return torch.where(share.isnan(), MISSING, bins)

    def mirrored(self, target: Tensor) -> Tensor:
        """Return the distances themselves."""
        return target

    def scorer(self) -> Scorer:
        """Return an empty scorer of ``loss``, ``absolute_error`` (meters) and ``relative_error``."""
        return _DepthScorer()

    def describe(self, train: Float[Tensor, "n 1 h w"], test: Float[Tensor, "m 1 h w"]) -> dict[str, Any]:
        """Return the task's `bench.record.TaskInfo`; the floor is the median of the training set."""
        floor = score_constant(self, torch.tensor(self._median(train)), test)
        return {
            "kind": self.kind,
            "headline": "absolute_error",
            "scored": "absolute_error",
            "floor": {metric: floor[metric] for metric in ("absolute_error", "relative_error")},
            "perfect": {"absolute_error": 0.0, "relative_error": 0.0},
            "test": int(self.labeled(test).sum()),
        }

    def _median(self, maps: Float[Tensor, "n 1 h w"]) -> float:
        """Return the median distance, to a thousandth of the range."""
        steps = 1000
        counts = torch.zeros(steps)
        for some in split_maps(maps):
            counts += torch.histc(some[~some.isnan()].float(), steps, self.nearest, self.farthest)
        below = counts.cumsum(0)
        middle = int(torch.searchsorted(below, below[-1] / 2))
        return self.nearest + (self.farthest - self.nearest) * (min(middle, steps - 1) + 0.5) / steps


class _DepthScorer:
    def __init__(self) -> None:
        from bench.tasks.metrics import MeanAbsoluteError, MeanAbsolutePercentageError

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
