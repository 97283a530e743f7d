"""Decoding: which pixels a file becomes, and what happens to files that are no images."""

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import torchvision_import
from bench.datasets.decoding import (
    CHUNK,
    Selection,
    find_copies,
    list_files,
    load_decoded,
)
from bench.datasets.image_files import DecodeSettings, decode_image
from bench.errors import BenchError
from tests.datasets.decoded import SIZE, SMALL, decoded


def write_images(folder: Path, count: int, side: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side + 4, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:03}.jpg")


def expected_row(path: Path, decode: DecodeSettings) -> torch.Tensor:
    with Image.open(path) as image:
        small = image.convert(decode.mode).resize(decode.size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small))
    return pixels.movedim(-1, 0) if decode.mode == "RGB" else pixels[None]


def never() -> Selection:
    raise AssertionError("the cache was not used")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_rows_are_pillows_pixels_in_the_order_asked_for(tmp_path: Path, mode: str) -> None:
    write_images(tmp_path / "images", 5)
    decode = DecodeSettings((SIZE, SIZE + 3), mode="RGB" if mode == "RGB" else "L")
    names = ["003.jpg", "000.jpg", "004.jpg"]
    data = decoded(tmp_path, decode, lambda: Selection(names, {"001.jpg": "odd"}, {"002.jpg": "000.jpg"}))
    assert data.names == names
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
    assert first.names == second.names == ["000.jpg", "001.jpg", "003.jpg"]
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


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "size", "crop", "mode"])
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
            decode = DecodeSettings((SIZE, SIZE + 1))
        case "crop":
            decode = DecodeSettings((SIZE, SIZE), crop=(1, 1))
        case "mode":
            decode = DecodeSettings((SIZE, SIZE), mode="L")
    after = decoded(tmp_path, decode)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert torch.equal(before.images, after.images) == (change in {"time", "crop"})
    assert torch.equal(after.images[0], expected_row(folder / after.names[0], decode))


@pytest.mark.parametrize("shape", [(218, 178), (109, 89), (110, 87), (11, 8), (5, 3)])
@pytest.mark.parametrize("crop", [(140 / 218, 140 / 178), (0.5, 1), (1, 0.3), (0.01, 0.01)])
def test_central_crop_is_torchvisions(
    tmp_path: Path, shape: tuple[int, int], crop: tuple[float, float]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg", "PNG")
    decode = DecodeSettings((10, 12), crop=crop)
    inner = [max(1, round(side * share)) for side, share in zip(shape, crop, strict=True)]
    part = torchvision_import.functional.center_crop(Image.fromarray(pixels), inner)
    wanted = torchvision_import.functional.resize(
        part, [10, 12], torchvision_import.transforms.InterpolationMode.BILINEAR
    )
    assert torch.equal(
        decoded(tmp_path, decode).images[0], torchvision_import.functional.pil_to_tensor(wanted)
    )


def test_crop_of_the_size_wanted_is_the_pixels_themselves(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (109, 89, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg", "PNG")
    (row,) = decoded(tmp_path, DecodeSettings((70, 70), crop=(140 / 218, 140 / 178))).images
    assert np.array_equal(row.permute(1, 2, 0), pixels[20:90, 10:80])


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


GRAY = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
ALPHA = Image.new("L", GRAY.size, 100)

EQUAL = {
    "gray": png(GRAY),
    "gray and alpha": png(Image.merge("LA", (GRAY, ALPHA))),
    "gray, one transparent": png(GRAY, transparency=3),
    "RGB": png(Image.merge("RGB", (GRAY,) * 3)),
    "RGBA": png(Image.merge("RGBA", (GRAY, GRAY, GRAY, ALPHA))),
    "palette": png(GRAY.convert("P")),
    "palette, one transparent": png(GRAY.convert("P"), transparency=3),
    "palette and alpha": png(GRAY.convert("P"), transparency=bytes(range(256))),
}


@pytest.mark.parametrize("kind", EQUAL)
@pytest.mark.parametrize("decode", [SMALL, DecodeSettings((SIZE, SIZE), mode="L")])
def test_gray_pixels_are_the_same_in_every_kind_of_png(
    tmp_path: Path, kind: str, decode: DecodeSettings
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(EQUAL[kind])
    (row,) = decoded(tmp_path, decode).images
    assert torch.equal(row, torch.from_numpy(np.array(GRAY)).expand(decode.row_shape))


def test_palette_gives_its_colors(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    (tmp_path / "images" / "a.jpg").write_bytes(png(image))
    (row,) = decoded(tmp_path).images
    assert row[:, 0, 0].tolist() == [10, 200, 30]


def test_deep_gray_is_left_out_not_cut_off(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 1)
    deep = Image.fromarray(np.full((9, 9), 3000, dtype=np.uint16))
    (tmp_path / "images" / "deep.jpg").write_bytes(png(deep))
    assert decoded(tmp_path).skipped == {"deep.jpg": "more than 8 bits per channel"}


def test_progress_counts_the_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images", CHUNK + 3, side=4)
    steps: list[tuple[str, int, int]] = []
    files = list_files(tmp_path / "images", ".jpg")
    load_decoded(
        tmp_path / "cache",
        "some",
        tmp_path / "images",
        files=files,
        decode=SMALL,
        order={},
        select=lambda: Selection([file.name for file in files]),
        progress=lambda *step: steps.append(step),
    )
    assert steps == [("decoding", CHUNK, CHUNK + 3), ("decoding", CHUNK + 3, CHUNK + 3)]


def test_no_readable_image_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    with pytest.raises(BenchError, match=r"images has no readable image; a\.jpg"):
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


def test_files_of_several_folders_are_named_from_their_root(tmp_path: Path) -> None:
    for folder in ("b/images", "a/images"):
        write_images(tmp_path / folder, 2)
    (tmp_path / "top.jpg").write_bytes(b"")
    files = list_files(tmp_path, ".jpg", folders=("b/images", "a/images"))
    names = [file.name for file in files]
    assert names == ["a/images/000.jpg", "a/images/001.jpg", "b/images/000.jpg", "b/images/001.jpg"]
    images, selection, _ = load_decoded(
        tmp_path / "cache",
        "some",
        tmp_path,
        files=files,
        decode=SMALL,
        order={},
        select=lambda: Selection(names[1:]),
    )
    assert selection.names == names[1:]
    assert torch.equal(images[0], expected_row(tmp_path / names[1], SMALL))


def test_copies_point_to_the_smallest_name(tmp_path: Path) -> None:
    for name, content in {"d": b"x", "b": b"x", "c": b"y", "a": b"z", "e": b"x"}.items():
        (tmp_path / name).write_bytes(content)
    assert find_copies(tmp_path, ["e", "d", "c", "b", "a"]) == {"d": "b", "e": "b"}
    assert find_copies(tmp_path, ["gone", "lost"]) == {}


def test_a_photograph_that_notes_how_it_was_held_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    sideways = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the right side of the file is the bottom of the scene
    sideways.save(tmp_path / "a.png", exif=exif)
    row = decode_image(tmp_path / "a.png", DecodeSettings((8, 8)))
    assert row[0, :4].max() == 0
    assert row[0, 4:].min() == 255


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, 2)
    odd = os.fsdecode(b"\xff.jpg")
    try:
        (tmp_path / "000.jpg").rename(tmp_path / odd)
    except OSError:
        pytest.skip("this file system has only names that are text")
    with caplog.at_level(logging.WARNING, "bench"):
        assert [file.name for file in list_files(tmp_path, ".jpg")] == ["001.jpg"]
    (message,) = caplog.messages
    assert message == f"{tmp_path}: 1 files whose names are not UTF-8 are left out; rename '\\udcff.jpg'"
