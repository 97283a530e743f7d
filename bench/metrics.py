"""The metrics taken from torchmetrics, which imports torchvision, so that its door comes first.

Imported where a metric is computed: what only plans or reads needs neither library.
"""

from bench import vision  # noqa: F401 - torchmetrics imports torchvision, so the door comes first

# isort: split
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
