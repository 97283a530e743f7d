"""Defenses against independent computations of the same images."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench.api import Batch, Defense, Split
from bench.catalog import describe, make
from bench.errors import BenchError

NAMES = ("none", "jpeg", "grayscale")


CPU = torch.device("cpu")


def released(images: Tensor) -> Split:
    """Images without labels, as an exploiter finds them."""
    return Split(images, {})


def draw_images(count: int, channels: int, height: int = 24, width: int = 20) -> Tensor:
    """Smooth images with some noise, of which a codec keeps something."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    noise = torch.rand(smooth.shape, generator=generator)
    return ((0.8 * smooth + 0.2 * noise) * 255).round().to(torch.uint8)


def through_a_file(image: Tensor, path: Path, quality: int) -> Tensor:
    """Save an image [c h w] as a JPEG file and read it back."""
    mode, pixels = ("L", image[0]) if len(image) == 1 else ("RGB", image.movedim(0, -1))
    size = image.shape[2], image.shape[1]
    Image.frombytes(mode, size, pixels.contiguous().numpy().tobytes()).save(path, quality=quality)
    with Image.open(path) as file:
        assert file.format == "JPEG"
        assert file.mode == mode
        values = torch.tensor(list(file.tobytes()), dtype=torch.uint8)
    return values.reshape(image.shape[1], image.shape[2], -1).movedim(-1, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [1, 10, 50, 95])
def test_jpeg_is_what_a_file_of_that_quality_gives(tmp_path: Path, channels: int, quality: int) -> None:
    images = draw_images(5, channels)
    wanted = torch.stack([through_a_file(image, tmp_path / "image.jpg", quality) for image in images])
    assert torch.equal(make("defense", f"jpeg(quality={quality})").purify(released(images), (), CPU), wanted)


def test_jpeg_is_of_quality_10_unless_told(tmp_path: Path) -> None:
    images = draw_images(1, 3)
    wanted = through_a_file(images[0], tmp_path / "image.jpg", 10)
    assert torch.equal(make("defense", "jpeg").purify(released(images), (), CPU)[0], wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_higher_quality_is_nearer(channels: int) -> None:
    images = draw_images(4, channels)
    errors = [
        (make("defense", f"jpeg(quality={quality})").purify(released(images), (), CPU).int() - images.int())
        .abs()
        .float()
        .mean()
        for quality in (5, 30, 90)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("quality", [0, 96])
def test_jpeg_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(BenchError, match="quality"):
        make("defense", f"jpeg(quality={quality})")


def test_grayscale_is_the_luma_of_itu_r_601() -> None:
    images = torch.randint(0, 256, (300, 3, 9, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    red, green, blue = images.numpy().astype(np.float64).transpose(1, 0, 2, 3)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cleaned = make("defense", "grayscale").purify(released(images), (), CPU)
    assert np.abs(cleaned.numpy() - luma[:, None]).max() < 1
    assert torch.equal(cleaned[:, 0], cleaned[:, 1])
    assert torch.equal(cleaned[:, 0], cleaned[:, 2])


def test_grayscale_agrees_with_pillow_within_a_step() -> None:
    images = draw_images(3, 3)
    cleaned = make("defense", "grayscale").purify(released(images), (), CPU)
    for image, grey in zip(images, cleaned, strict=True):
        pillow = np.asarray(Image.fromarray(image.movedim(0, -1).numpy()).convert("L")).astype(int)
        assert np.abs(grey[0].numpy().astype(int) - pillow).max() <= 1


def test_grayscale_keeps_every_shade_of_grey() -> None:
    shades = torch.arange(256).to(torch.uint8).reshape(1, 1, 16, 16)
    for images in (shades, shades.repeat(1, 3, 1, 1)):
        assert torch.equal(make("defense", "grayscale").purify(released(images), (), CPU), images)


def test_none_gives_back_what_it_got() -> None:
    images = draw_images(2, 3)
    before = images.clone()
    assert torch.equal(make("defense", "none").purify(released(images), (), CPU), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 3, 24, 20), (3, 1, 24, 20), (2, 3, 1, 1), (0, 3, 8, 8), (0, 1, 8, 8)])
def test_purify_keeps_shape_type_device_and_input(name: str, shape: tuple[int, int, int, int]) -> None:
    images = draw_images(*shape)
    before = images.clone()
    defense = make("defense", name)
    assert isinstance(defense, Defense)
    cleaned = defense.purify(released(images), (), CPU)
    assert (cleaned.shape, cleaned.dtype, cleaned.device) == (images.shape, images.dtype, images.device)
    assert torch.equal(images, before)
    assert torch.equal(defense.purify(released(images), (), CPU), cleaned)


@pytest.mark.parametrize("name", NAMES)
def test_purify_treats_images_one_by_one_however_they_are_stored(name: str) -> None:
    images = draw_images(6, 3)
    defense = make("defense", name)
    cleaned = defense.purify(released(images), (), CPU)
    channels_last = images.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(defense.purify(released(channels_last), (), CPU), cleaned)
    assert torch.equal(defense.purify(released(images[::2]), (), CPU), cleaned[::2])


@pytest.mark.parametrize("name", ["jpeg", "grayscale"])
def test_other_numbers_of_channels_are_refused(name: str) -> None:
    with pytest.raises(BenchError, match=f"defense '{name}' takes images of 1 or 3 channels, not 2"):
        make("defense", name).purify(released(draw_images(1, 2)), (), CPU)


@pytest.mark.parametrize("name", NAMES)
def test_augment_changes_nothing(name: str) -> None:
    images = draw_images(2, 3) / 255
    batch = Batch(images, {"task": torch.tensor([0, 1])}, torch.arange(2))
    before = images.clone()
    augmented = make("defense", name).augment(batch, nn.Identity(), ())
    assert torch.equal(augmented.images, before)
    assert torch.equal(augmented.targets["task"], torch.tensor([0, 1]))
    assert torch.equal(augmented.index, torch.arange(2))


@pytest.mark.parametrize("name", NAMES)
def test_defenses_are_frozen_and_cite_their_source(name: str) -> None:
    defense = make("defense", name)
    assert defense.version == 1
    with pytest.raises(FrozenInstanceError):
        defense.quality = 50
    assert describe("defense", name).source
