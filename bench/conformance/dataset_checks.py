"""The checks of a dataset."""

import tempfile
from pathlib import Path

import torch

from bench.api import MultiTaskData, Task
from bench.catalog.choice import Choice
from bench.conformance.part import Check, ContractError, PartUnderTest
from bench.errors import BenchError
from bench.values import MISSING, Split


class DatasetUnderTest(PartUnderTest):
    """A dataset and the data root that it is read from.

    Attributes:
        data_root: the folder with the published files; None if there is none.
    """

    def __init__(self, axis: str, choice: Choice | str, data_root: Path | None = None) -> None:
        super().__init__(axis, choice)
        self.data_root = data_root

    @property
    def missing(self) -> str | None:
        """Why the dataset cannot be loaded from the data root; None if it can."""
        sentence: str | None = self.part.missing(self.data_root)
        return sentence

    def load(self) -> MultiTaskData:
        """Load the dataset with an empty cache."""
        with tempfile.TemporaryDirectory() as cache:
            data: MultiTaskData = self.part.load(self.data_root, Path(cache))
        return data


def says_what_is_missing(tested: DatasetUnderTest, _: str) -> None:
    """Check the dataset without a data root, and with an empty one."""
    with tempfile.TemporaryDirectory() as folder:
        for root in (None, Path(folder) / "data"):
            (Path(folder) / "data").mkdir(exist_ok=True)
            missing = tested.part.missing(root)
            if missing is not None and "--data-root" not in missing:
                raise ContractError("missing() does not say which files --data-root should have")
            try:
                tested.part.load(root, Path(folder) / "cache")
            except BenchError as error:
                if missing is None:
                    raise ContractError("missing() says that all is there, but load() fails") from error
                if "--data-root" not in str(error):
                    raise ContractError("load() without its files does not name --data-root") from error
            else:
                if missing is not None:
                    raise ContractError("missing() says that files are missing, but load() works")


def has_images_and_labels(tested: DatasetUnderTest, _: str) -> str | None:
    """Check shapes, types, ranges and names."""
    if tested.missing is not None:
        return tested.missing
    data = tested.load()
    names = [task.name for task in data.tasks]
    if not names or len(set(names)) != len(names):
        raise ContractError(f"its tasks need different names, at least one: {names}")
    if {task.kind for task in data.tasks} != tested.part.kinds:
        raise ContractError("its tasks are not of the kinds that it says")
    if data.train.images.shape[1:] != data.test.images.shape[1:]:
        raise ContractError("its training and test images have different shapes")
    crop = data.augmentation.crop
    if crop is not None and crop > min(data.train.images.shape[2:]):
        raise ContractError(f"it crops to {crop} px, but its images are smaller")
    for split in (data.train, data.test):
        if split.images.dtype != torch.uint8 or len(split) == 0:
            raise ContractError("each of its splits needs images of uint8")
        if set(split.targets) != set(names):
            raise ContractError(f"its targets are {sorted(split.targets)}, its tasks {sorted(names)}")
        for task in data.tasks:
            _check_target(task, split)
    return None


def _check_target(task: Task, split: Split) -> None:
    if not isinstance(task, Task):
        raise ContractError(f"its task {task!r} is not a Task, see bench/api.py")
    target, count = split.targets[task.name], len(split)
    if task.kind == "classification":
        if (target.shape, target.dtype) != ((count,), torch.int64):
            raise ContractError(f"the labels of task {task.name!r} are not int64 [n]")
    elif (len(target), *target.shape[-2:]) != (count, *split.images.shape[2:]):
        raise ContractError(f"the maps of task {task.name!r} are not of the images' size")
    if task.kind in ("classification", "segmentation"):
        known = (target >= 0) & (target < task.classes)
        if not (known | (target == MISSING)).all():
            raise ContractError(f"task {task.name!r} has labels that are neither a class nor MISSING")
    if not task.labeled(target).any():
        raise ContractError(f"task {task.name!r} has no label in one of the splits")


def is_the_same_every_time(tested: DatasetUnderTest, _: str) -> str | None:
    """Check that two loads are equal, and that loading draws nothing from torch's generator."""
    if tested.missing is not None:
        return tested.missing
    state = torch.get_rng_state()
    first = tested.load()
    if not torch.equal(torch.get_rng_state(), state):
        raise ContractError("loading it changes torch's random state")
    torch.manual_seed(1)
    second = tested.load()
    for one, other in ((first.train, second.train), (first.test, second.test)):
        if not torch.equal(one.images, other.images):
            raise ContractError("loaded twice, it has different images")
        for name, target in one.targets.items():
            if not torch.equal(target, other.targets[name]):
                raise ContractError(f"loaded twice, it has different targets of task {name!r}")
    return None


DATASET_CHECKS = (
    Check("says what is missing", says_what_is_missing),
    Check("has images and a label of every task", has_images_and_labels),
    Check("is the same every time", is_the_same_every_time),
)
"""The contract of a dataset."""
