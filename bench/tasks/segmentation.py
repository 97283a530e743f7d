"""Semantic segmentation: one class per pixel.

Losses and metrics of dense tasks are those of the multi-task literature (Liu et al., CVPR 2019,
arXiv:1803.10704, MTAN; LibMTL). All are means over the labeled pixels of all images.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional

from bench.tasks.labels import shift_labels
from bench.tasks.maps import share_of_pixels, split_maps
from bench.tasks.protocol import MISSING, Kind, Scorer


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
        """Return the mean cross-entropy over the labeled pixels, 0 if there are none."""
        # CUDA's own sum over the pixels is not deterministic; a separate sum is.
        separate = torch.are_deterministic_algorithms_enabled()
        losses = functional.cross_entropy(
            outputs, target, ignore_index=MISSING, reduction="none" if separate else "sum"
        )
        return losses.sum() / (target != MISSING).sum().clamp(min=1)

    def share_wrong(
        self, outputs: Float[Tensor, "b k h w"], target: Int64[Tensor, "b h w"]
    ) -> Float[Tensor, " b"]:
        """Return the share of labeled pixels that get another class."""
        return share_of_pixels(outputs.argmax(1) != target, target != MISSING)

    def labeled(self, target: Int[Tensor, "b h w"]) -> Bool[Tensor, " b"]:
        """Return which samples have a labeled pixel."""
        return (target != MISSING).flatten(1).any(1)

    def without_labels(self, target: Int[Tensor, "b h w"]) -> Int[Tensor, "b h w"]:
        """Return maps without labels."""
        return torch.full_like(target, MISSING)

    def shifted(self, target: Int64[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
        """Return (y + ⌊k/2⌋) mod k for every label, missing ones as they are."""
        return shift_labels(target, self.classes)

    def class_labels(self, target: Int64[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
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
            "test": int(self.labeled(test).sum()),
        }

    def _count(self, maps: Int[Tensor, "n h w"]) -> Int64[Tensor, " k"]:
        counts = torch.zeros(self.classes + 1, dtype=torch.long)
        for some in split_maps(maps):
            counts += torch.bincount(some.flatten().long() - MISSING, minlength=self.classes + 1)
        return counts[1:]


class _SegmentationScorer:
    def __init__(self, task: Segmentation) -> None:
        from bench.tasks.metrics import MeanMetric, MulticlassAccuracy, MulticlassJaccardIndex

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
        labeled = target != MISSING
        self._loss.update(self._task.loss(outputs, target), labeled.sum())
        predicted = outputs.argmax(1)
        self._overlaps.update(predicted, target)
        self._accuracy.update(predicted, target)
        self._occurring[target[labeled].unique().cpu()] = True

    def compute(self) -> dict[str, float | None]:
        if not self._finite or not self._occurring.any():
            return dict.fromkeys(("loss", "miou", "pixel_accuracy"))
        overlaps = self._overlaps.compute().cpu()
        return {
            "loss": float(self._loss.compute()),
            "miou": float(overlaps[self._occurring].mean()),
            "pixel_accuracy": float(self._accuracy.compute()),
        }
