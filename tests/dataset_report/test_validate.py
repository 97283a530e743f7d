"""Targets and splits that do not fit the tasks: each is named in one sentence."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bench.api import MultiTaskData
from bench.dataset_report.statistics import compute_statistics
from bench.errors import BenchError
from bench.values import Split
from tests.dataset_report.examples import classified, dense


def spoil(data: MultiTaskData, task: str, change: Callable[[torch.Tensor], torch.Tensor]) -> MultiTaskData:
    """Return the data with one target of the test split changed."""
    targets = {**data.test.targets, task: change(data.test.targets[task].clone())}
    return replace(data, test=Split(data.test.images, targets))


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(target: torch.Tensor) -> torch.Tensor:
        target.view(-1)[0] = value
        return target

    return change


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("what", first(3), "the test targets of task 'what' have a label 3, but the 3 classes are numbered"),
        ("what", first(-2), "have a label -2"),
        ("what", lambda target: target[:5], "are 5 for 6 images"),
        ("what", lambda target: target[:, :3], r"are int8 \[6, 3, 5\], not integers \[6, 4, 5\]"),
        ("what", lambda target: target.float(), "are float32"),
        ("far", first(11), "have a distance of 11 m, outside 0-10 m"),
        ("far", first(math.inf), "have a distance of inf m"),
        ("far", lambda target: target[:, 0], r"not floats \[6, 1, 4, 5\]"),
        ("lean", lambda target: target * 2, "have a normal of length 2"),
        ("lean", first(math.nan), "have normals of which only a part is missing"),
    ],
)
def test_unsound_targets_are_named(
    task: str, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    with pytest.raises(BenchError, match=message) as raised:
        compute_statistics("some", spoil(dense(), task, change))
    assert str(raised.value).startswith(f"dataset 'some': the test targets of task {task!r} ")


def test_unsound_splits_are_named() -> None:
    data = classified(0, 1, 2, 0, 1, 2)
    floats = Split(data.test.images, data.test.targets)
    object.__setattr__(floats, "images", data.test.images.float())  # what the constructor refuses in tests
    for test, message in [
        (
            Split(data.test.images[:0], {"kind": torch.zeros(0, dtype=torch.long)}),
            "the test split has no image",
        ),
        (floats, "are float32"),
        (Split(data.test.images, {}), r"has targets for \[\], not \['kind'\]"),
        (Split(data.test.images[:, :, :3], data.test.targets), "have different shapes"),
    ]:
        with pytest.raises(BenchError, match=message):
            compute_statistics("some", replace(data, test=test))
