"""Classification tasks: head, loss, metrics and their floors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from bench.errors import BenchError
from bench.tasks.labels import labeled_mean, shift_labels
from bench.tasks.protocol import MISSING, Kind, Scorer, Task


def require_classification(tasks: Sequence[Task], who: str) -> tuple["Classification", ...]:
    """Return the tasks, all of which must be classifications.

    Raises:
        BenchError: when one is not; the message names ``who`` needs classifications, and the task.
    """
    chosen = tuple(task for task in tasks if isinstance(task, Classification))
    if len(chosen) < len(tasks):
        other = next(task.name for task in tasks if not isinstance(task, Classification))
        raise BenchError(f"{who} works on classification tasks only, and {other!r} is not one")
    return chosen


@dataclass(frozen=True)
class Classification:
    """One label out of several; two classes are one logit with binary cross-entropy.

    Source: the label handling of Yu et al., ICML 2025 (MTL-UE), section 5.1.

    Attributes:
        name: the task's name.
        class_names: one per class, in the order of the labels 0, 1, ...
        headline: the metric the field reports for the task.
    """

    name: str
    class_names: tuple[str, ...]
    headline: Literal["accuracy", "auroc"] = "accuracy"

    @property
    def kind(self) -> Kind:
        """It asks for one label."""
        return "classification"

    @property
    def classes(self) -> int:
        """Number of classes k."""
        return len(self.class_names)

    @property
    def outputs(self) -> int:
        """Outputs of the head: 1 for two classes, else one per class."""
        return 1 if self.classes == 2 else self.classes

    @property
    def scored(self) -> str:
        """The metric protection is computed from.

        Balanced accuracy in place of accuracy: on a 98 : 2 attribute the accuracy of a clean victim is hardly
        above the floor.
        """
        return "balanced_accuracy" if self.headline == "accuracy" else self.headline

    def loss(self, outputs: Float[Tensor, "*t b o"], target: Int64[Tensor, "*t b"]) -> Float[Tensor, " *t"]:
        """Return the mean cross-entropy over the labeled samples, 0 if there are none.

        Several tasks with as many outputs may be stacked; then it is the loss of each.
        """
        if self.outputs == 1:
            losses = functional.binary_cross_entropy_with_logits(
                outputs[..., 0], target.clamp(min=0).to(outputs.dtype), reduction="none"
            )
        else:
            losses = functional.cross_entropy(
                outputs.flatten(0, -2), target.flatten(), ignore_index=MISSING, reduction="none"
            ).view_as(target)
        return labeled_mean(losses, target)

    def predict(self, outputs: Float[Tensor, "*t b o"]) -> Int64[Tensor, "*t b"]:
        """Return the most likely class."""
        return (outputs[..., 0] > 0).long() if self.outputs == 1 else outputs.argmax(-1)

    def share_wrong(
        self, outputs: Float[Tensor, "*t b o"], target: Int64[Tensor, "*t b"]
    ) -> Float[Tensor, "*t b"]:
        """Return 1 for every sample whose label is not the predicted one, 0 without a label."""
        return (self.labeled(target) & (self.predict(outputs) != target)).float()

    def labeled(self, target: Int64[Tensor, "*t b"]) -> Bool[Tensor, "*t b"]:
        """Return which samples have a label."""
        return target != MISSING

    def without_labels(self, target: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return as many missing labels."""
        return torch.full_like(target, MISSING)

    def shifted(self, target: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return (y + ⌊k/2⌋) mod k for every label, missing ones as they are."""
        return shift_labels(target, self.classes)

    def class_labels(self, target: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return the labels themselves."""
        return target

    def mirrored(self, target: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return the labels themselves: flipping an image does not change them."""
        return target

    def scorer(self) -> Scorer:
        """Return an empty scorer."""
        return _ClassificationScorer(self)

    def metrics(self, outputs: Float[Tensor, "n o"], target: Int64[Tensor, " n"]) -> dict[str, float | None]:
        """Return loss, accuracy, balanced accuracy and AUROC over the labeled samples.

        Balanced accuracy is the mean recall, and AUROC the mean one-versus-rest area, over the classes that
        occur. A metric that is undefined (no labels; AUROC with a single class; an output that is not
        finite) is None.
        """
        from bench.tasks.metrics import multiclass_recall

        labeled = target != MISSING
        outputs, target = outputs[labeled], target[labeled]
        if not len(target) or not outputs.isfinite().all():
            return dict.fromkeys(("loss", "accuracy", "balanced_accuracy", "auroc"))
        predicted = self.predict(outputs)
        occurring = target.unique()
        recall = multiclass_recall(predicted, target, num_classes=self.classes, average="none")
        return {
            "loss": float(self.loss(outputs, target)),
            "accuracy": float((predicted == target).float().mean()),
            "balanced_accuracy": float(recall[occurring].mean()),
            "auroc": self._auroc(outputs, target, occurring),
        }

    def _auroc(self, outputs: Tensor, target: Tensor, occurring: Tensor) -> float | None:
        if len(occurring) < 2:
            return None
        outputs = outputs.double()
        if self.outputs == 1:
            return _roc_area(outputs[:, 0], target == 1)
        # Samples are ranked by a class's odds against all others, not by its logit alone.
        areas = []
        for label in occurring.tolist():
            others = torch.cat([outputs[:, :label], outputs[:, label + 1 :]], dim=1)
            areas.append(_roc_area(outputs[:, label] - others.logsumexp(1), target == label))
        return sum(areas) / len(areas)

    def describe(self, train: Int64[Tensor, " n"], test: Int64[Tensor, " m"]) -> dict[str, Any]:
        """Return the task's `bench.record.TaskInfo`.

        The floor of accuracy is that of the training set's commonest class on the test set; of balanced
        accuracy 1/k over the k classes that occur there; of AUROC 0.5.
        """
        train, test = train[train != MISSING], test[test != MISSING]
        commonest = train.bincount(minlength=self.classes).argmax()
        return {
            "kind": "classification",
            "classes": self.classes,
            "headline": self.headline,
            "scored": self.scored,
            "floor": {
                "accuracy": float((test == commonest).float().mean()) if len(test) else 0.0,
                "balanced_accuracy": 1.0 / max(1, len(test.unique())),
                "auroc": 0.5,
            },
            "perfect": {"accuracy": 1.0, "balanced_accuracy": 1.0, "auroc": 1.0},
            "test": len(test),
        }


class _ClassificationScorer:
    """Collects outputs and labels: AUROC needs all of them to rank samples."""

    def __init__(self, task: Classification) -> None:
        self._task = task
        self._outputs: list[Tensor] = []
        self._target: list[Tensor] = []

    def update(self, outputs: Float[Tensor, "b o"], target: Int64[Tensor, " b"]) -> None:
        """Add outputs and labels."""
        self._outputs.append(outputs)
        self._target.append(target)

    def compute(self) -> dict[str, float | None]:
        """Return `Classification.metrics` of all samples."""
        return self._task.metrics(torch.cat(self._outputs), torch.cat(self._target))


def _roc_area(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the ROC curve.

    The library gets the scores' ranks, not the scores: it takes the sigmoid of values outside of [0, 1], and
    confident logits would all become 1.
    """
    from bench.tasks.metrics import binary_auroc

    _, ranks = scores.unique(return_inverse=True)
    return float(binary_auroc(ranks.double() / len(ranks), positive.long()))
