"""CIFAR-100: the published pickles are read only if they are, and nothing in them is run."""

import pickle
import shutil
import struct
from collections.abc import Callable
from hashlib import md5
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import torchvision_import
from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.catalog.description import describe_part
from bench.datasets import cifar
from bench.datasets.cifar import CIFAR100, read_published
from bench.errors import BenchError

WHOLE = CIFAR100()
FINE = tuple(f"fine {number}" for number in range(100))
COARSE = tuple(f"coarse {number}" for number in range(20))


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text and bytes as Python 2 wrote both: as strings of bytes."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def as_python2(value: object) -> bytes:
    """Pickle as the published files are: the arrays' constructor by its old name."""
    file = BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def images_of(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)


def content_of(count: int, seed: int) -> dict[str, Any]:
    fine = np.random.default_rng(seed).integers(0, 100, count).tolist()
    return {
        "data": images_of(count, seed),
        "fine_labels": fine,
        "coarse_labels": [label // 5 for label in fine],
        "filenames": [f"{number}.png" for number in range(count)],
        "batch_label": "some",
    }


def write(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, dataset: Any = CIFAR100
) -> None:
    """Write a file where the dataset expects it; its checksum becomes the published one."""
    folder = root / dataset.layout.folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    monkeypatch.setitem(dataset.checksums, name, md5(content, usedforsecurity=False).hexdigest())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, monkeypatch, "train", as_python2(content_of(20, 0)))
    write(tmp_path, monkeypatch, "test", as_python2(content_of(8, 1)))
    names = {"fine_label_names": list(FINE), "coarse_label_names": list(COARSE)}
    write(tmp_path, monkeypatch, "meta", as_python2(names))
    return tmp_path


def load(root: Path, dataset: CIFAR100 = WHOLE) -> MultiTaskData:
    return dataset.load(root, root / "cache")


def test_checksums_are_of_the_files_published() -> None:
    assert cifar.MD5_100 == {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }


def test_images_and_labels_are_those_of_the_files(root: Path) -> None:
    data = load(root)
    assert isinstance(WHOLE, Dataset)
    assert [(task.name, task.classes) for task in data.tasks] == [("coarse", 20), ("fine", 100)]
    assert [task.class_names for task in data.tasks] == [COARSE, FINE]
    for split, count, seed in ((data.train, 20, 0), (data.test, 8, 1)):
        content = content_of(count, seed)
        assert split.images.dtype == torch.uint8
        assert np.array_equal(split.images, content["data"].reshape(count, 3, 32, 32))
        assert split.targets["fine"].tolist() == content["fine_labels"]
        assert split.targets["coarse"].tolist() == content["coarse_labels"]
        assert all(target.dtype == torch.int64 for target in split.targets.values())
    assert (data.augmentation.crop, data.augmentation.flip) == (None, True)
    assert load(root, CIFAR100(crop=28)).augmentation.crop == 28


def test_second_load_unpickles_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(cifar, "read_published", refuse)
    second = load(root)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.targets["fine"], second.test.targets["fine"])


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_other_file_is_refused_before_it_is_unpickled(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "cifar-100-python" / name
    path.write_bytes(path.read_bytes() + b".")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was unpickled")

    monkeypatch.setattr(cifar, "_Unpickler", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    with pytest.raises(
        BenchError, match=r"is not the published file \(its MD5 is not [0-9a-f]{32}\)"
    ) as error:
        read_published(path, cifar.MD5_100[name])
    assert str(error.value).startswith(str(path))


def test_damaged_file_leaves_no_cache(root: Path) -> None:
    path = root / "cifar-100-python" / "meta"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BenchError, match="meta is not the published file"):
        load(root)
    assert list((root / "cache").iterdir()) == []


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, how: Callable[..., object], *arguments: object) -> None:
        self.reduced = how, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("how", [eval, getattr, np.load, np.array, Path])
def test_nothing_but_arrays_is_made_even_of_a_verified_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[..., object]
) -> None:
    content = pickle.dumps({"data": Evil(how, str(tmp_path / "made"))}, 2)
    write(tmp_path, monkeypatch, "train", content)
    with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
        read_published(tmp_path / "cifar-100-python" / "train", cifar.MD5_100["train"])


@pytest.mark.parametrize("place", [".", "cifar100", "CIFAR-100/cifar-100-python"])
def test_files_may_lie_where_mirrors_put_them(root: Path, tmp_path: Path, place: str) -> None:
    own = load(root)
    shutil.move(root / "cifar-100-python", tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", root / place, dirs_exist_ok=True)
    assert torch.equal(load(root).test.images, own.test.images)


def test_limit_draws_from_each_split(root: Path) -> None:
    everything = load(root)
    first, other = (load(root, CIFAR100(limit=14, data_seed=seed)) for seed in (0, 1))
    for some in (first, other):
        assert (len(some.train), len(some.test)) == (10, 4)
        for split, whole in ((some.train, everything.train), (some.test, everything.test)):
            rows = (split.images[:, None] == whole.images).flatten(2).all(2).int().argmax(1)
            assert torch.equal(split.images, whole.images[rows])
            assert torch.equal(split.targets["fine"], whole.targets["fine"][rows])
    assert not torch.equal(first.train.images, other.train.images)
    assert len(load(root, CIFAR100(limit=100)).train) == 20


def test_seed_without_a_limit_reads_nothing_again(root: Path) -> None:
    assert load(root).cached_in == load(root, CIFAR100(data_seed=1)).cached_in


def test_progress_counts_the_files(root: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    WHOLE.load(root, root / "cache", lambda *step: steps.append(step))
    assert steps == [("reading", 1, 3), ("reading", 2, 3), ("reading", 3, 3)]


def test_what_is_not_there_is_explained(root: Path) -> None:
    with pytest.raises(BenchError, match="--data-root with cifar-100-python/train, test and meta"):
        WHOLE.load(None, root / "cache")
    (root / "cifar-100-python" / "meta").unlink()
    with pytest.raises(BenchError, match=r"there is no .*meta; pass --data-root"):
        load(root)


@pytest.mark.parametrize("params", ["crop=33", "crop=4", "limit=1"])
def test_parameters_out_of_range_are_refused(params: str) -> None:
    with pytest.raises(BenchError, match=params.partition("=")[0]):
        build_part("dataset", f"cifar100({params})")


def test_catalog_knows_the_source() -> None:
    assert "Krizhevsky" in describe_part("dataset", "cifar100").source


def test_checksums_are_those_that_torchvision_knows() -> None:
    published = torchvision_import.datasets.CIFAR100
    meta = published.meta
    assert {
        **dict(published.train_list),
        **dict(published.test_list),
        meta["filename"]: meta["md5"],
    } == cifar.MD5_100
