"""The kinds of training sets that attacks and defenses are checked on."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bench.api import Task
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import MISSING, Augmentation, Split

AUGMENTATION = Augmentation(crop=13, flip=True)

DENSE_TASKS = (
    Segmentation("what", ("a", "b", "c", "d")),
    Depth("how far", 0.0, 1.0),
    Normals("turned where"),
)
"""The dense tasks of a case with dense tasks."""


@dataclass(frozen=True)
class Case:
    """A kind of training set.

    Attributes:
        channels: channels of the images.
        height: height of the images.
        width: width of the images.
        classes: number of classes of every classification task.
        missing: share of the labels that are missing, drawn at random.
        unlabeled: tasks that have no label at all, as if they were not to be protected.
        augmentation: what victims are expected to do to the images.
        dense: whether there is a segmentation, a depth and a normals task, too.
        count: number of images.
    """

    channels: int = 3
    height: int = 16
    width: int = 16
    classes: tuple[int, ...] = (2, 5, 4)
    missing: float = 0.0
    unlabeled: tuple[int, ...] = ()
    augmentation: Augmentation = AUGMENTATION
    dense: bool = False
    count: int = 40

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The classification tasks and, if it is dense, the dense ones."""
        labels = tuple(
            Classification(f"task {i}", tuple(f"class {c}" for c in range(classes)))
            for i, classes in enumerate(self.classes)
        )
        return (*labels, *DENSE_TASKS) if self.dense else labels

    def split(self, more: int = 0, seed: int = 0) -> Split:
        """Return images of every brightness, black and white pixels among them, and random labels."""
        count = self.count + more
        draw = torch.Generator().manual_seed(seed)
        shape = (count, self.channels, self.height, self.width)
        images = torch.randint(-40, 296, shape, generator=draw).clamp(0, 255).to(torch.uint8)
        targets = {}
        for number, task in enumerate(self.tasks):
            target = _random_target(task, (count, self.height, self.width), draw)
            hidden = torch.rand(count, generator=draw) < (number in self.unlabeled or self.missing)
            targets[task.name] = torch.where(
                hidden.view(-1, *[1] * (target.ndim - 1)), task.without_labels(target), target
            )
        return Split(images, targets)


def _random_target(task: Task, size: tuple[int, int, int], draw: torch.Generator) -> Tensor:
    """Return a label for each of [n h w] images, or a map as it is stored, a tenth of its pixels missing."""
    count, height, width = size
    if task.kind == "classification":
        return torch.randint(0, task.classes, (count,), generator=draw)
    hidden = torch.rand(count, 1, height, width, generator=draw) < 0.1
    if task.kind == "segmentation":
        labels = torch.randint(0, task.classes, size, generator=draw)
        return labels.masked_fill(hidden[:, 0], MISSING).to(torch.int8)
    values = torch.rand(count, task.outputs, height, width, generator=draw)
    if task.kind == "normals":
        values = functional.normalize(values - values.new_tensor([0.5, 0.5, 1.1])[:, None, None], dim=1)
    return values.masked_fill(hidden, float("nan"))


PLAIN_CASE, GRAY_CASE, HALF_MISSING_CASE, ODD_SIZE_CASE = (
    "three tasks",
    "gray images",
    "half of the labels missing",
    "odd sides",
)

DENSE_CASE = "dense tasks"

CASES: Mapping[str, Case] = {
    PLAIN_CASE: Case(),
    GRAY_CASE: Case(channels=1),
    "one binary task": Case(classes=(2,)),
    "one task of five classes": Case(classes=(5,)),
    "two tasks": Case(classes=(2, 4)),
    "11 binary tasks": Case(classes=(2,) * 11),
    "40 tasks of two and three classes": Case(classes=(2, 3) * 20),
    HALF_MISSING_CASE: Case(missing=0.5),
    "no labels": Case(missing=1.0),
    "one task without labels": Case(unlabeled=(1,)),
    ODD_SIZE_CASE: Case(height=17, width=15),
    "images that are not square": Case(height=12, width=20, augmentation=Augmentation(flip=True)),
    "no augmentation": Case(augmentation=Augmentation()),
    "41 images": Case(count=41),  # in batches of 20 or 10, one is left over
    DENSE_CASE: Case(classes=(2, 5), dense=True, missing=0.1),
}
"""The kinds of training sets by name."""

ALL_CASES = tuple(CASES)

LABELED_CASES = tuple(name for name, case in CASES.items() if case.missing < 1)
"""The cases with labels."""


def skip_dense_case(part: object, case: str) -> str | None:
    """Return why a part that cannot work with dense tasks is not checked on them; None if it is."""
    if CASES[case].dense and not getattr(part, "dense", False):
        return "it does not work with dense tasks, and says so"
    return None
