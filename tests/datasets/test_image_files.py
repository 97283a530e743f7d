"""Image files: the formats that are read, what is said of others, and that libraries stay silent."""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from bench.datasets.image_files import (
    IMAGE_SUFFIXES,
    UnreadableImageError,
    decode_image,
    quiet_image_libraries,
)
from bench.errors import BenchError
from tests.datasets.decoded import SIZE, SMALL, decoded

PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def encode(kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def reason(tmp_path: Path, content: bytes) -> str:
    """Return why a file with this content cannot be read."""
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with quiet_image_libraries(), pytest.raises(UnreadableImageError) as raised:
        decode_image(path, SMALL)
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
    + [
        ("TIFF", {"compression": compression})
        for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits")
    ],
)
def test_formats_without_loss_give_their_pixels(
    tmp_path: Path, kind: str, options: dict[str, object]
) -> None:
    (tmp_path / "a").write_bytes(encode(kind, **options))
    assert np.array_equal(decode_image(tmp_path / "a", SMALL), PIXELS.transpose(2, 0, 1))


@pytest.mark.parametrize("transparent", [False, True])
def test_first_frame_of_an_animated_gif_is_read(tmp_path: Path, transparent: bool) -> None:
    first, second = (Image.new("P", (SIZE, SIZE), color) for color in (1, 2))
    for frame in (first, second):
        frame.putpalette([0, 0, 0, 10, 200, 30, 5, 5, 5])
    options = {"transparency": 0} if transparent else {}
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], **options)
    assert decode_image(tmp_path / "a.gif", SMALL)[:, 0, 0].tolist() == [10, 200, 30]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    flat = np.full((SIZE, SIZE, 3), (200, 40, 90), np.uint8)
    (tmp_path / "a.avif").write_bytes(encode("AVIF", flat, quality=100))
    assert np.abs(decode_image(tmp_path / "a.avif", SMALL).transpose(1, 2, 0) - flat.astype(int)).max() < 4


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_format_that_pillow_was_built_without_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content = encode(kind) if features.check(kind.lower()) else b""
    Image.init()
    monkeypatch.delitem(Image.OPEN, kind, raising=False)
    monkeypatch.setattr(features, "check", lambda _: False)
    name = {"WEBP": "a WebP image", "AVIF": "an AVIF image"}[kind]
    if content:
        assert reason(tmp_path, content) == f"{name}; convert it to PNG"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"no image", "unreadable image"),
        (encode("WEBP")[:60], "unreadable image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image; convert it to PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image; convert it to PNG"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing; convert it to PNG"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page; convert it to PNG"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS, not the image; convert it to PNG",
        ),
        (b"\0" * 128 + b"DICM", "a DICOM file; convert it to PNG"),
    ],
)
def test_what_is_no_image_that_can_be_read_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    assert reason(tmp_path, content) == expected


def test_too_large_is_said_to_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    assert reason(tmp_path, encode("PNG")) == "too large: more than 62 pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32)  # exactly twice as many is still read
    (tmp_path / "b").write_bytes(encode("PNG"))
    with quiet_image_libraries():
        assert decode_image(tmp_path / "b", SMALL).shape == (3, SIZE, SIZE)


def test_too_little_memory_is_an_error_not_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encode("PNG"))

    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(BenchError, match=r"there is not enough memory to decode .*a\.png; make it smaller"):
        decode_image(tmp_path / "a.png", SMALL)


def png_with(name: bytes, content: bytes, end: int) -> bytes:
    """Return a PNG file with another chunk at this place, from the beginning or from the end."""
    whole = encode("PNG")
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return whole[:end] + chunk + whole[end:]


@pytest.mark.parametrize("place", [33, -12], ids=["behind the header", "behind the pixels"])
@pytest.mark.parametrize(
    "name", [b"iCCP", b"tRNS", b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"eXIf", b"zTXt", b"iTXt"]
)
@pytest.mark.parametrize("content", [b"", b"x", b"x\0", b"x\0\x01", b"\0" * 3, b"x\0\0\0\0\0"])
def test_damaged_chunks_are_read_or_left_out(tmp_path: Path, name: bytes, content: bytes, place: int) -> None:
    (tmp_path / "a.png").write_bytes(png_with(name, content, place))
    row = PIXELS.transpose(2, 0, 1)
    with quiet_image_libraries(), suppress(UnreadableImageError):
        row = decode_image(tmp_path / "a.png", SMALL)
    assert np.array_equal(row, PIXELS.transpose(2, 0, 1))


def test_libraries_say_nothing_of_damaged_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    whole = {
        f"{name}.{number}": bytearray(content)
        for name, content in (
            ("deflate.tif", encode("TIFF", compression="tiff_deflate")),
            ("lzw.tif", encode("TIFF", compression="tiff_lzw")),
            ("a.jpg", encode("JPEG")),
            ("a.gif", encode("GIF")),
        )
        for number in range(12)
    }
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in whole.items():
        for place in rng.integers(8, len(content), 3):
            content[place] ^= 0xFF
        base, suffix, number = name.split(".")
        (folder / f"{base}{number}.{suffix}").write_bytes(content)
    (folder / "good.png").write_bytes(encode("PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = decoded(tmp_path, suffixes=IMAGE_SUFFIXES)
    assert "good.png" in data.names
    assert data.skipped
    assert capfd.readouterr() == ("", "")
