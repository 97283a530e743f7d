"""Example images are read without torch, and what is damaged is no image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bench.example_images import EXAMPLES, ExampleImages, encode_example_images, read_example_images

CLEAN = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
IMAGES = ExampleImages(np.array([1, 5]), CLEAN, CLEAN + np.uint8(1), 2)
ARRAYS = {"rows": IMAGES.rows, "clean": CLEAN, "released": IMAGES.released, "side": np.array([2])}


def write(run: Path, content: bytes) -> None:
    path = run / "poisons" / "ab" / EXAMPLES
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_images_come_back(tmp_path: Path) -> None:
    write(tmp_path, encode_example_images(IMAGES))
    read = read_example_images(tmp_path, "ab")
    assert read is not None
    assert read.rows.tolist() == [1, 5]
    assert np.array_equal(read.clean, CLEAN)
    assert np.array_equal(read.released, IMAGES.released)
    assert not read.is_shrunk


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tensors",
        encode_example_images(IMAGES)[:-1],
        save({"clean": CLEAN}),
        save(ARRAYS | {"clean": CLEAN.astype(np.float32)}),
        save(ARRAYS | {"clean": CLEAN[:1]}),
        save(ARRAYS | {"side": np.array([1, 2])}),
    ],
)
def test_what_is_damaged_is_no_image(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, content)
    assert read_example_images(tmp_path, "ab") is None


def test_what_is_missing_or_no_key_is_no_image(tmp_path: Path) -> None:
    for key in ("ab", "", "a\0b"):
        assert read_example_images(tmp_path, key) is None


def test_reading_loads_no_torch(tmp_path: Path) -> None:
    write(tmp_path, encode_example_images(IMAGES))
    code = (
        "import sys; from pathlib import Path; from bench.example_images import read_example_images\n"
        f"sys.exit(read_example_images(Path({str(tmp_path)!r}), 'ab') is None or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
