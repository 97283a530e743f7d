"""SVHN: MATLAB files with rows last, and ten for the digit zero."""

from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from bench import torchvision_import
from bench.api import MultiTaskData
from bench.datasets import svhn
from bench.datasets.svhn import SVHN
from bench.errors import BenchError

COUNTS = {"train": 12, "test": 4}


def images_of(name: str) -> np.ndarray:
    """Return images [h w c n]."""
    shape = (32, 32, 3, COUNTS[name])
    return np.random.default_rng(COUNTS[name]).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "svhn").mkdir()
    for name, count in COUNTS.items():
        path = tmp_path / "svhn" / f"{name}_32x32.mat"
        labels = np.arange(count, dtype=np.uint8)[:, None] % 10 + 1
        savemat(path, {"X": images_of(name), "y": labels})
        monkeypatch.setitem(svhn.MD5, name, md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    return tmp_path


def load(root: Path, **params: int) -> MultiTaskData:
    return SVHN(**params).load(root, root / "cache")


def test_images_and_digits_are_those_of_the_files(root: Path) -> None:
    data = load(root)
    for name, split in (("train", data.train), ("test", data.test)):
        for row, image in enumerate(split.images.numpy()):
            assert np.array_equal(image.transpose(1, 2, 0), images_of(name)[..., row])
    assert data.train.targets["digit"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert data.test.targets["digit"].tolist() == [1, 2, 3, 4]
    assert not data.augmentation.flip


def test_limit_draws_by_the_seed(root: Path) -> None:
    first, other = load(root, limit=8), load(root, limit=8, data_seed=1)
    assert [(len(some.train), len(some.test)) for some in (first, other)] == [(6, 2)] * 2
    assert not np.array_equal(first.train.images, other.train.images)


def test_another_file_is_refused_before_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scipy.io.loadmat", None)
    path = root / "svhn" / "test_32x32.mat"
    monkeypatch.setitem(svhn.MD5, "train", "0" * 32)
    with pytest.raises(BenchError, match=r"train_32x32\.mat is not the published file"):
        load(root)
    path.unlink()
    with pytest.raises(BenchError, match=r"there is no .*test_32x32\.mat; pass --data-root with svhn/"):
        load(root)


def test_checksums_are_those_that_torchvision_knows() -> None:
    published = torchvision_import.datasets.SVHN.split_list
    assert {name: published[name][2] for name in ("train", "test")} == svhn.MD5
