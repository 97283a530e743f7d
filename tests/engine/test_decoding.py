"""The decode cache: what is kept, when it is used again, and what happens when it is damaged."""

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

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets.decoding import (
    CHUNK,
    Decode,
    Decoded,
    Selection,
    find_copies,
    list_files,
    load_decoded,
)
from bench.errors import BenchError

SIZE = 8
SMALL = Decode(SIZE)


def write_images(folder: Path, count: int, side: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side + 4, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:03}.jpg")


def expected_row(path: Path, decode: Decode) -> torch.Tensor:
    with Image.open(path) as image:
        small = image.convert(decode.mode).resize((decode.size, decode.size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small))
    return pixels.movedim(-1, 0) if decode.mode == "RGB" else pixels[None]


def decoded(tmp_path: Path, decode: Decode = SMALL, select: Callable[[], Selection] | None = None) -> Decoded:
    folder = tmp_path / "images"
    files = list_files(folder, ".jpg")
    return load_decoded(
        tmp_path / "cache",
        "some",
        folder,
        files=files,
        decode=decode,
        order={"seed": 0},
        select=select or (lambda: Selection([file.name for file in files], {}, {})),
    )


def never() -> Selection:
    raise AssertionError("the cache was not used")


def cached_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "cache").iterdir()
    return folder


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_rows_are_pillows_pixels_in_the_order_asked_for(tmp_path: Path, mode: str) -> None:
    write_images(tmp_path / "images", 5)
    decode = Decode(SIZE, "RGB" if mode == "RGB" else "L")
    names = ["003.jpg", "000.jpg", "004.jpg"]
    data = decoded(tmp_path, decode, lambda: Selection(names, {"001.jpg": "odd"}, {"002.jpg": "000.jpg"}))
    assert data.names == tuple(names)
    assert data.skipped == {"001.jpg": "odd"}
    assert data.copies == {"002.jpg": "000.jpg"}
    assert data.images.dtype == torch.uint8
    assert data.images.is_contiguous()
    wanted = torch.stack([expected_row(tmp_path / "images" / name, decode) for name in names])
    assert torch.equal(data.images, wanted)


def test_second_load_uses_the_cache_and_is_the_same(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 4)
    (tmp_path / "images" / "002.jpg").write_bytes(b"no image")
    first = decoded(tmp_path)
    second = decoded(tmp_path, select=never)
    assert first.names == second.names == ("000.jpg", "001.jpg", "003.jpg")
    assert first.skipped == second.skipped == {"002.jpg": "unreadable image"}
    assert torch.equal(first.images, second.images)


def test_unreadable_files_leave_no_gap_across_chunks(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_images(folder, CHUNK + 12, side=8)
    for number in (0, 7, CHUNK - 1, CHUNK + 1):
        path = folder / f"{number:03}.jpg"
        path.write_bytes(path.read_bytes()[:200])
    data = decoded(tmp_path)
    assert len(data.names) == len(data.images) == CHUNK + 8
    assert sorted(data.skipped) == ["000.jpg", "007.jpg", "255.jpg", "257.jpg"]
    wanted = torch.stack([expected_row(folder / name, SMALL) for name in data.names])
    assert torch.equal(data.images, wanted)


def test_images_are_mapped_and_writing_to_them_leaves_the_cache_alone(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 3)
    decoded(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = decoded(tmp_path, select=never)
    assert data.images[:2].untyped_storage().data_ptr() == data.images.untyped_storage().data_ptr()
    before = data.images.clone()
    data.images.zero_()
    assert before.any()
    assert torch.equal(decoded(tmp_path, select=never).images, before)


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "size", "mode"])
def test_any_change_makes_a_new_cache(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "images"
    write_images(folder, 3)
    before = decoded(tmp_path)
    decode = SMALL
    match change:
        case "content":
            Image.new("RGB", (30, 30), "red").save(folder / "001.jpg")
        case "time":
            os.utime(folder / "001.jpg", ns=(1, 1))
        case "added":
            Image.new("RGB", (30, 30), "red").save(folder / "1.jpg")
        case "removed":
            (folder / "001.jpg").unlink()
        case "size":
            decode = Decode(SIZE + 1)
        case "mode":
            decode = Decode(SIZE, "L")
    after = decoded(tmp_path, decode)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert torch.equal(before.images, after.images) == (change == "time")
    assert torch.equal(after.images[0], expected_row(folder / after.names[0], decode))


def truncate_images(folder: Path) -> None:
    path = folder / "images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def empty_images(folder: Path) -> None:
    (folder / "images.npy").write_bytes(b"")


def remove_images(folder: Path) -> None:
    (folder / "images.npy").unlink()


def reshape_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((3, 3, SIZE, SIZE + 1), dtype=np.uint8))


def transpose_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((3, 3, SIZE, SIZE), dtype=np.uint8, order="F"))


def widen_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((3, 3, SIZE, SIZE), dtype=np.float32))


def truncate_index(folder: Path) -> None:
    path = folder / "index.json"
    path.write_bytes(path.read_bytes()[:-10])


def alter_index(folder: Path) -> None:
    path = folder / "index.json"
    content = json.loads(path.read_text())
    content["index"]["names"].reverse()
    path.write_text(json.dumps(content))


def replace_index(folder: Path) -> None:
    (folder / "index.json").write_text("[]")


def remove_index(folder: Path) -> None:
    (folder / "index.json").unlink()


DAMAGES = [
    truncate_images,
    empty_images,
    remove_images,
    reshape_images,
    transpose_images,
    widen_images,
    truncate_index,
    alter_index,
    replace_index,
    remove_index,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_named_once_and_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    write_images(tmp_path / "images", 3)
    wanted = decoded(tmp_path).images.clone()
    damage(cached_folder(tmp_path))
    with caplog.at_level(logging.WARNING, "bench"):
        data = decoded(tmp_path)
    (message,) = caplog.messages
    assert str(cached_folder(tmp_path)) in message
    assert ("images.npy" if damage.__name__.endswith("images") else "index.json") in message
    assert torch.equal(data.images, wanted)
    assert data.names == ("000.jpg", "001.jpg", "002.jpg")
    caplog.clear()
    decoded(tmp_path, select=never)
    assert not caplog.messages


def test_builders_at_once_leave_one_cache(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 6)
    barrier = threading.Barrier(3)

    def select() -> Selection:
        barrier.wait(timeout=60)  # every builder has found the cache empty
        return Selection([f"{number:03}.jpg" for number in range(6)], {}, {})

    with ThreadPoolExecutor(3) as pool:
        builds = [pool.submit(decoded, tmp_path, SMALL, select) for _ in range(3)]
        results = [build.result() for build in builds]
    assert all(torch.equal(results[0].images, other.images) for other in results[1:])
    assert torch.equal(decoded(tmp_path, select=never).images, results[0].images)
    assert cached_folder(tmp_path).name.startswith("some-")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to grow a file beyond so many bytes, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_refused_write_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 10)
    with largest_file(1500), pytest.raises(BenchError, match="cannot use the decode cache in") as error:
        decoded(tmp_path)
    assert str(tmp_path / "cache") in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(decoded(tmp_path).images) == 10


def test_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 1)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(BenchError, match=r"cannot use the decode cache in .*cache"):
        decoded(tmp_path)


def test_file_in_the_place_of_a_cache_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 1)
    decoded(tmp_path)
    folder = cached_folder(tmp_path)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(BenchError, match=r"cannot use the decode cache in .*cache"):
        decoded(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_no_readable_image_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    with pytest.raises(BenchError, match=r"images has no image that can be read; a\.jpg"):
        decoded(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_are_listed_by_name_without_hidden_ones_and_folders(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.JPG", "._a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "c.jpg").mkdir()
    os.utime(tmp_path / "b.jpg", ns=(5, 7_000_000_000))
    files = list_files(tmp_path, ".jpg")
    assert [file.name for file in files] == ["a.JPG", "b.jpg"]
    assert (files[1].size, files[1].mtime_ns) == (3, 7_000_000_000)
    with pytest.raises(BenchError, match=r"cannot read the folder .*absent"):
        list_files(tmp_path / "absent", ".jpg")


def test_copies_point_to_the_smallest_name(tmp_path: Path) -> None:
    for name, content in {"d": b"x", "b": b"x", "c": b"y", "a": b"z", "e": b"x"}.items():
        (tmp_path / name).write_bytes(content)
    assert find_copies(tmp_path, ["e", "d", "c", "b", "a"]) == {"d": "b", "e": "b"}
    assert find_copies(tmp_path, ["gone", "lost"]) == {}
