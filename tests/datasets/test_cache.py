"""The cache of arrays: what is kept, when it is used again, and what happens when it is damaged."""

import errno
import json
import logging
import os
import resource
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.datasets.cache import RowWriter, cached_arrays
from bench.errors import BenchError

IMAGES = np.arange(90, dtype=np.uint8).reshape(5, 2, 3, 3)
DEPTH = np.linspace(0, 1, 45, dtype=np.float32).reshape(5, 1, 3, 3)
INDEX = {"names": ["a", "b"], "more": {"c": 1, "d": None}}
IDENTITY = {"size": 3, "files": [("a", 5, 7)]}

Kept = tuple[dict[str, torch.Tensor], dict[str, Any], Path]


def build(folder: Path) -> dict[str, Any]:
    with RowWriter(folder / "images.npy", (2, 3, 3), np.uint8) as images:
        images.append(IMAGES[:3])
        images.append(IMAGES[3:])
    np.save(folder / "depth.npy", DEPTH)
    return INDEX


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("the cache was not used")


def cached(tmp_path: Path, build: Callable[[Path], dict[str, Any]] = build) -> Kept:
    return cached_arrays(tmp_path / "cache", "some", IDENTITY, build)


def cached_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "cache").iterdir()
    return folder


def is_sound(kept: Kept) -> bool:
    arrays, index, folder = kept
    assert (folder / "index.json").is_file()
    assert set(arrays) == {"images", "depth"}
    return (
        torch.equal(arrays["images"], torch.from_numpy(IMAGES))
        and torch.equal(arrays["depth"], torch.from_numpy(DEPTH))
        and index == INDEX
    )


def test_second_call_uses_what_the_first_made(tmp_path: Path) -> None:
    assert is_sound(cached(tmp_path))
    assert is_sound(cached(tmp_path, never))
    assert cached_folder(tmp_path).name.startswith("some-")
    assert sorted(path.name for path in cached_folder(tmp_path).iterdir()) == [
        "depth.npy",
        "images.npy",
        "index.json",
    ]


@pytest.mark.parametrize(
    "identity", [{}, {"size": 4, "files": [("a", 5, 7)]}, {"size": 3, "files": [("a", 5, 8)]}]
)
def test_other_identity_makes_another_folder(tmp_path: Path, identity: dict[str, Any]) -> None:
    cached(tmp_path)
    cached_arrays(tmp_path / "cache", "some", identity, build)
    cached_arrays(tmp_path / "cache", "other", IDENTITY, build)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_arrays_are_mapped_and_writing_to_them_leaves_the_cache_alone(tmp_path: Path) -> None:
    cached(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = cached(tmp_path, never)[0]["images"]
    assert images[:2].untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    images.zero_()
    assert is_sound(cached(tmp_path, never))


def test_written_rows_are_what_numpy_reads(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    with RowWriter(path, (3,), np.float32) as rows:
        for start in range(0, 1500, 10):
            rows.append(np.arange(start, start + 10, dtype=np.float32)[:, None].repeat(3, 1))
        assert rows.count == 1500
    loaded = np.load(path, allow_pickle=False)
    assert loaded.shape == (1500, 3)
    assert np.array_equal(loaded[:, 2], np.arange(1500))


def test_rows_need_not_be_contiguous(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    with RowWriter(path, (3, 2), np.uint8) as rows:
        rows.append(np.arange(6, dtype=np.uint8).reshape(1, 2, 3).transpose(0, 2, 1))
    assert np.load(path).tolist() == [[[0, 3], [1, 4], [2, 5]]]


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.zeros((2, 4), dtype=np.float32)])
def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path, rows: np.ndarray) -> None:
    with (
        RowWriter(tmp_path / "rows.npy", (3,), np.float32) as writer,
        pytest.raises(ValueError, match="rows are"),
    ):
        writer.append(rows)


def truncate_images(folder: Path) -> None:
    path = folder / "images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def empty_images(folder: Path) -> None:
    (folder / "images.npy").write_bytes(b"")


def remove_images(folder: Path) -> None:
    (folder / "images.npy").unlink()


def reshape_images(folder: Path) -> None:
    np.save(folder / "images.npy", IMAGES.reshape(5, 3, 2, 3))


def transpose_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.asfortranarray(IMAGES))


def widen_images(folder: Path) -> None:
    np.save(folder / "images.npy", IMAGES.astype(np.float32))


def pickle_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.array([{}, {}], dtype=object), allow_pickle=True)


def remove_depth(folder: Path) -> None:
    (folder / "depth.npy").unlink()


def truncate_index(folder: Path) -> None:
    path = folder / "index.json"
    path.write_bytes(path.read_bytes()[:-10])


def alter_index(folder: Path) -> None:
    path = folder / "index.json"
    content = json.loads(path.read_text())
    content["kept"]["index"]["names"].reverse()
    path.write_text(json.dumps(content))


def replace_index(folder: Path) -> None:
    (folder / "index.json").write_text("[]")


def remove_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def _write_header(folder: Path, header: bytes) -> None:
    size = len(header).to_bytes(2, "little")
    (folder / "images.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + header)


def open_images(folder: Path) -> None:
    """The header ends within brackets (tokenize.TokenError)."""
    _write_header(folder, b"{'descr': '|u1', 'fortran_order': (((((\n")


def nest_images(folder: Path) -> None:
    """The header is nested deeply (RecursionError or MemoryError)."""
    _write_header(folder, b"(" * 9000 + b"\n")


def retype_images(folder: Path) -> None:
    """The header has another kind of value (TypeError)."""
    _write_header(folder, b"{'descr': {}, 'fortran_order': False, 'shape': (5, 2, 3, 3)}\n")


def enlarge_images(folder: Path) -> None:
    """The header has a size that no number holds (OverflowError)."""
    _write_header(folder, b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 2, 3, 3)}\n" % 10**40)


def nest_index(folder: Path) -> None:
    (folder / "index.json").write_text("[" * 5000)


def put_nan_into_index(folder: Path) -> None:
    (folder / "index.json").write_text('{"kept": NaN, "checksum": ""}')


DAMAGES = [
    open_images,
    nest_images,
    retype_images,
    enlarge_images,
    nest_index,
    put_nan_into_index,
    truncate_images,
    empty_images,
    remove_images,
    reshape_images,
    transpose_images,
    widen_images,
    pickle_images,
    remove_depth,
    truncate_index,
    alter_index,
    replace_index,
    remove_index,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_once_and_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    cached(tmp_path)
    damage(cached_folder(tmp_path))
    with caplog.at_level(logging.WARNING, "bench"):
        assert is_sound(cached(tmp_path))
    (message,) = caplog.messages
    assert str(cached_folder(tmp_path)) in message
    assert damage.__name__.rpartition("_")[2] in message
    caplog.clear()
    assert is_sound(cached(tmp_path, never))
    assert not caplog.messages


def test_builders_at_once_leave_one_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def together(folder: Path) -> dict[str, Any]:
        barrier.wait(timeout=60)  # every builder has found the cache empty
        return build(folder)

    with ThreadPoolExecutor(3) as pool:
        builds = [pool.submit(cached, tmp_path, together) for _ in range(3)]
        assert all(is_sound(build.result()) for build in builds)
    assert is_sound(cached(tmp_path, never))
    assert cached_folder(tmp_path).name.startswith("some-")


def test_error_of_a_builder_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        build(folder)
        raise BenchError("no such face")

    with pytest.raises(BenchError, match="no such face"):
        cached(tmp_path, fail)
    assert list((tmp_path / "cache").iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to grow a file beyond so many bytes, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [150, 290])  # too little for the rows of one array, of the other
def test_refused_write_is_one_sentence_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    with largest_file(size), pytest.raises(BenchError, match="cannot use the cache in") as error:
        cached(tmp_path)
    assert str(tmp_path / "cache") in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []
    assert is_sound(cached(tmp_path))


def test_full_disk_is_named(tmp_path: Path) -> None:
    def full(folder: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BenchError, match=r"cannot use the cache in .*: No space left on device"):
        cached(tmp_path, full)


def test_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(BenchError, match=r"cannot use the cache in .*cache"):
        cached(tmp_path)


def test_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    cached(tmp_path)
    folder = cached_folder(tmp_path)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(BenchError, match=r"cannot use the cache in .*cache"):
        cached(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == [folder]
