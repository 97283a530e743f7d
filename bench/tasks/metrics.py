"""The metrics taken from torchmetrics, which imports torchvision.

Modules import this one where a metric is computed, so that planning and reading need neither library.
"""

# ruff: noqa: E402
from bench import torchvision_import

torchvision_import.import_torchvision()

from torchmetrics import MeanAbsoluteError, MeanAbsolutePercentageError, MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.functional.classification import binary_auroc, multiclass_recall
from torchmetrics.functional.image import structural_similarity_index_measure

__all__ = [
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanMetric",
    "MulticlassAccuracy",
    "MulticlassJaccardIndex",
    "binary_auroc",
    "multiclass_recall",
    "structural_similarity_index_measure",
]
