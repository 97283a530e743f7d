"""CIFAR-10: the five batches and the test batch; how pickles are read is tested with CIFAR-100."""

from pathlib import Path

import numpy as np
import pytest

from bench import torchvision_import
from bench.api import MultiTaskData
from bench.datasets.cifar import CIFAR10, MD5_10
from bench.errors import BenchError
from tests.datasets.test_cifar100 import as_python2, images_of, write

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = tuple(MD5_10)[:-1]


def labels_of(number: int) -> list[int]:
    return [(number + row) % 10 for row in range(4)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        name: {"data": images_of(4, number), "labels": labels_of(number), "batch_label": name}
        for number, name in enumerate(BATCHES)
    }
    files["batches.meta"] = {"label_names": list(NAMES), "num_vis": 3072}
    for name, content in files.items():
        write(tmp_path, monkeypatch, name, as_python2(content), CIFAR10)
    return tmp_path


def load(root: Path, **params: int) -> MultiTaskData:
    return CIFAR10(**params).load(root, root / "cache")


def test_images_and_labels_are_those_of_the_batches(root: Path) -> None:
    data = load(root)
    assert [(task.name, task.class_names) for task in data.tasks] == [("class", NAMES)]
    assert (len(data.train), len(data.test)) == (20, 4)
    for number in range(5):
        rows = slice(4 * number, 4 * number + 4)
        assert np.array_equal(data.train.images[rows], images_of(4, number).reshape(4, 3, 32, 32))
        assert data.train.targets["class"][rows].tolist() == labels_of(number)
    assert np.array_equal(data.test.images, images_of(4, 5).reshape(4, 3, 32, 32))
    assert data.test.targets["class"].tolist() == labels_of(5)


def test_limit_draws_by_the_seed(root: Path) -> None:
    first, other = load(root, limit=12), load(root, limit=12, data_seed=1)
    assert [(len(some.train), len(some.test)) for some in (first, other)] == [(10, 2)] * 2
    assert not np.array_equal(first.train.images, other.train.images)


def test_a_missing_batch_is_explained(root: Path) -> None:
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(
        BenchError, match=r"there is no .*data_batch_3; pass --data-root with cifar-10-batches-py"
    ):
        load(root)


def test_checksums_are_those_that_torchvision_knows() -> None:
    published = torchvision_import.datasets.CIFAR10
    listed = [*published.train_list, *published.test_list]
    assert {**dict(listed), published.meta["filename"]: published.meta["md5"]} == MD5_10
