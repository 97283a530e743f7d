"""Small datasets that the tests of reports share."""

import math
from collections.abc import Callable

import torch

from bench.api import MultiTaskData, Task
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import MISSING, Augmentation, Split

HOSTILE = "<script>alert('x')</script>"
DIGITS = "digits(test=20, train=60)"
FOLDER = "folder(size=16)"

Bench = Callable[..., tuple[int, str, str]]


def split(count: int = 6, **targets: torch.Tensor) -> Split:
    images = torch.arange(count * 3 * 4 * 5, dtype=torch.uint8).reshape(count, 3, 4, 5)
    return Split(images, targets)


def classified(*labels: int, classes: int = 3) -> MultiTaskData:
    """Return six training and six test images of one task, the test images labeled like this."""
    task = Classification("kind", tuple("abcdef"[:classes]))
    train = split(kind=torch.tensor([0, 1, 2, 0, 1, 2]) % classes)
    test = split(kind=torch.tensor(labels))
    return MultiTaskData((task,), train, Split(255 - test.images, test.targets))


def dense(derived: bool = False) -> MultiTaskData:
    """Return six images with half of the pixels labeled."""
    half = torch.zeros(6, 4, 5, dtype=torch.bool)
    half[:, :2] = True
    labels = torch.where(half, 1, MISSING).to(torch.int8)
    labels[0, 0, 0] = 2
    depth = torch.where(half, 2.0, math.nan)[:, None]
    depth[0, 0, 0, 0] = 9.0
    normals = torch.where(half[:, None], torch.tensor([0.0, 0.0, -1.0])[:, None, None], math.nan)
    tasks: tuple[Task, ...] = (
        Segmentation("what", ("wall", "<floor>", "chair")),
        Depth("far"),
        Normals("lean", derived),
    )
    both = split(what=labels, far=depth, lean=normals)
    return MultiTaskData(tasks, both, both, Augmentation(flip=True), ("a note",))
