"""Defenses against independent computations of the same images."""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import ndimage, stats
from torch import Tensor, nn

from bench import torchvision_import
from bench.api import Defense, Task
from bench.catalog.build import build_part
from bench.catalog.description import describe_part
from bench.defenses import by_chunk
from bench.defenses.none import NoDefense
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.training.loop import batch_losses, losses_of_outputs, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import MISSING, Augmentation, Batch, Recipe, Split

NAMES = ("none", "jpeg", "grayscale", "bit-depth", "posterize", "gaussian-blur", "median", "resize")
"""Those that clean images before training, and do nothing in it."""

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
    assert torch.equal(
        build_part("defense", f"jpeg(quality={quality})").purify(released(images), (), CPU), wanted
    )


def test_jpeg_is_of_quality_10_unless_told(tmp_path: Path) -> None:
    images = draw_images(1, 3)
    wanted = through_a_file(images[0], tmp_path / "image.jpg", 10)
    assert torch.equal(build_part("defense", "jpeg").purify(released(images), (), CPU)[0], wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_higher_quality_is_nearer(channels: int) -> None:
    images = draw_images(4, channels)
    errors = [
        (
            build_part("defense", f"jpeg(quality={quality})").purify(released(images), (), CPU).int()
            - images.int()
        )
        .abs()
        .float()
        .mean()
        for quality in (5, 30, 90)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("quality", [0, 96])
def test_jpeg_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(BenchError, match="quality"):
        build_part("defense", f"jpeg(quality={quality})")


def test_grayscale_is_the_luma_of_itu_r_601() -> None:
    images = torch.randint(0, 256, (300, 3, 9, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    red, green, blue = images.numpy().astype(np.float64).transpose(1, 0, 2, 3)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cleaned = build_part("defense", "grayscale").purify(released(images), (), CPU)
    assert np.abs(cleaned.numpy() - luma[:, None]).max() < 1
    assert torch.equal(cleaned[:, 0], cleaned[:, 1])
    assert torch.equal(cleaned[:, 0], cleaned[:, 2])


def test_grayscale_agrees_with_pillow_within_a_step() -> None:
    images = draw_images(3, 3)
    cleaned = build_part("defense", "grayscale").purify(released(images), (), CPU)
    for image, gray in zip(images, cleaned, strict=True):
        pillow = np.asarray(Image.fromarray(image.movedim(0, -1).numpy()).convert("L")).astype(int)
        assert np.abs(gray[0].numpy().astype(int) - pillow).max() <= 1


def test_grayscale_keeps_every_shade_of_gray() -> None:
    shades = torch.arange(256).to(torch.uint8).reshape(1, 1, 16, 16)
    for images in (shades, shades.repeat(1, 3, 1, 1)):
        assert torch.equal(build_part("defense", "grayscale").purify(released(images), (), CPU), images)


def test_none_gives_back_what_it_got() -> None:
    images = draw_images(2, 3)
    before = images.clone()
    assert torch.equal(build_part("defense", "none").purify(released(images), (), CPU), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 3, 24, 20), (3, 1, 24, 20), (2, 3, 1, 1), (0, 3, 8, 8), (0, 1, 8, 8)])
def test_purify_keeps_shape_type_device_and_input(name: str, shape: tuple[int, int, int, int]) -> None:
    if name == "gaussian-blur" and shape[2:] == (1, 1):
        pytest.skip("refused, see below")
    images = draw_images(*shape)
    before = images.clone()
    defense = build_part("defense", name)
    assert isinstance(defense, Defense)
    cleaned = defense.purify(released(images), (), CPU)
    assert (cleaned.shape, cleaned.dtype, cleaned.device) == (images.shape, images.dtype, images.device)
    assert torch.equal(images, before)
    assert torch.equal(defense.purify(released(images), (), CPU), cleaned)


@pytest.mark.parametrize("name", NAMES)
def test_purify_treats_images_one_by_one_however_they_are_stored(name: str) -> None:
    images = draw_images(6, 3)
    defense = build_part("defense", name)
    cleaned = defense.purify(released(images), (), CPU)
    channels_last = images.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(defense.purify(released(channels_last), (), CPU), cleaned)
    assert torch.equal(defense.purify(released(images[::2]), (), CPU), cleaned[::2])


@pytest.mark.parametrize("name", ["jpeg", "grayscale"])
def test_other_numbers_of_channels_are_refused(name: str) -> None:
    with pytest.raises(BenchError, match=f"defense '{name}' takes images of 1 or 3 channels, not 2"):
        build_part("defense", name).purify(released(draw_images(1, 2)), (), CPU)


@pytest.mark.parametrize("name", NAMES)
def test_augment_changes_nothing(name: str) -> None:
    images = draw_images(2, 3) / 255
    batch = Batch(images, {"task": torch.tensor([0, 1])}, torch.arange(2))
    before = images.clone()
    augmented = build_part("defense", name).augment(batch, nn.Identity(), ())
    assert torch.equal(augmented.images, before)
    assert torch.equal(augmented.targets["task"], torch.tensor([0, 1]))
    assert torch.equal(augmented.index, torch.arange(2))


@pytest.mark.parametrize("name", ["none", "jpeg", "grayscale"])
def test_defenses_are_frozen_and_cite_their_source(name: str) -> None:
    defense = build_part("defense", name)
    assert defense.version == 1
    with pytest.raises(FrozenInstanceError):
        defense.quality = 50
    assert describe_part("defense", name).source


# Fewer levels

ALL_LEVELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def cleaned(name: str, images: Tensor) -> Tensor:
    """The images as a defense gives them to the training."""
    purified: Tensor = build_part("defense", name).purify(released(images), (), CPU)
    return purified


def test_bit_depth_is_floor_4x_over_4() -> None:
    wanted = [round(math.floor(4 * level / 255) / 4 * 255) for level in range(256)]
    found = cleaned("bit-depth", ALL_LEVELS).flatten().tolist()
    assert found == wanted
    assert sorted(set(found)) == [0, 64, 128, 191, 255]
    assert found.count(255) == 1


@pytest.mark.parametrize("bits", range(1, 8))
def test_bit_depth_of_any_number_of_bits(bits: int) -> None:
    levels = 2**bits
    wanted = [(level * levels // 255) * 255 / levels for level in range(256)]
    found = cleaned(f"bit-depth(bits={bits})", ALL_LEVELS).flatten().tolist()
    assert np.abs(np.subtract(found, wanted)).max() <= 0.5
    assert len(set(found)) == levels + 1


def test_posterize_keeps_four_levels_by_default() -> None:
    assert sorted(set(cleaned("posterize", ALL_LEVELS).flatten().tolist())) == [0, 64, 128, 192]


@pytest.mark.parametrize("bits", range(1, 8))
def test_posterize_agrees_with_pillow(bits: int) -> None:
    images = draw_images(3, 3)
    for image, found in zip(images, cleaned(f"posterize(bits={bits})", images), strict=True):
        pillow = ImageOps.posterize(Image.fromarray(image.movedim(0, -1).numpy()), bits)
        assert np.array_equal(found.movedim(0, -1).numpy(), np.asarray(pillow))


# Filters


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 1.0), (3, 0.5), (5, 1.5), (7, 2.0)])
def test_gaussian_blur_agrees_with_scipy(kernel: int, sigma: float) -> None:
    images = draw_images(4, 3)
    name = f"gaussian-blur(kernel={kernel}, sigma={sigma})"
    wanted = images.numpy().astype(np.float64)
    for axis in (2, 3):
        wanted = ndimage.gaussian_filter1d(wanted, sigma, axis, mode="mirror", radius=kernel // 2)
    assert np.abs(cleaned(name, images).numpy() - wanted).max() < 0.501


def test_gaussian_blur_of_a_point_shows_its_weights() -> None:
    images = torch.zeros(1, 1, 7, 7, dtype=torch.uint8)
    images[0, 0, 3, 3] = 255
    weights = np.exp([-0.5, 0, -0.5])
    weights /= weights.sum()
    found = cleaned("gaussian-blur", images)[0, 0, 2:5, 2:5].numpy()
    assert np.abs(found - 255 * np.outer(weights, weights)).max() <= 0.5
    assert found[1, 0] > 30  # not the identity


def test_gaussian_blur_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(BenchError, match="'gaussian-blur': a kernel of 5 is too large for 2 pixels"):
        cleaned("gaussian-blur(kernel=5)", draw_images(1, 3, 2, 9))
    with pytest.raises(BenchError, match="kernel = 4 is refused"):
        build_part("defense", "gaussian-blur(kernel=4)")


@pytest.mark.parametrize("shape", [(5, 3, 24, 20), (4, 1, 9, 1), (2, 3, 2, 2)])
def test_median_agrees_with_scipy(shape: tuple[int, int, int, int]) -> None:
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    wanted = ndimage.median_filter(images.numpy(), size=(1, 1, 3, 3), mode="nearest")
    assert np.array_equal(cleaned("median", images).numpy(), wanted)


@pytest.mark.parametrize(("factor", "small"), [(2, (10, 12)), (4, (5, 6)), (1.5, (13, 16))])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_agrees_with_pillow_computing_with_floats(
    factor: float, small: tuple[int, int], channels: int
) -> None:
    images = draw_images(3, channels)
    found = cleaned(f"resize(factor={factor})", images)
    for image, seen in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        reduced = Image.fromarray(image.float().numpy()).resize(small, Image.Resampling.BILINEAR)
        back = np.asarray(reduced.resize((20, 24), Image.Resampling.BILINEAR))
        assert np.abs(seen.numpy() - back).max() < 0.501
    assert (found != images).any()


def test_a_set_is_cleaned_in_pieces_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(7, 3)
    whole = {name: cleaned(name, images) for name in NAMES}
    monkeypatch.setattr(by_chunk, "CHUNK_VALUES", 2 * images[0].numel())
    steps: list[tuple[str, int, int]] = []
    for name, wanted in whole.items():
        assert torch.equal(cleaned(name, images), wanted)
    build_part("defense", "median").purify(released(images), (), CPU, lambda *step: steps.append(step))
    assert steps == [("purify", done, 7) for done in (2, 4, 6, 7)]


# Changes of a batch


def batch_of(images: Tensor, **targets: Tensor) -> Batch:
    return Batch(images, targets, torch.arange(len(images)))


def augmented(name: str, batch: Batch, tasks: Sequence[Task] = (), seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    seen: Batch = build_part("defense", name).augment(batch, nn.Identity(), tasks)
    return seen


def test_gaussian_noise_has_the_standard_deviation_it_is_given() -> None:
    batch = batch_of(torch.full((64, 3, 32, 32), 0.5))
    for sigma, name in ((8, "gaussian-noise"), (16, "gaussian-noise(sigma=16)")):
        noise = (augmented(name, batch).images - 0.5) * 255
        assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
        assert abs(float(noise.mean())) < 0.1
        assert stats.kstest(noise.flatten()[:2000].numpy() / sigma, "norm").pvalue > 0.01
    black = augmented("gaussian-noise", batch_of(torch.zeros(8, 3, 16, 16))).images
    assert black.min() == 0
    assert float((black > 0).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 16), (20, 48, 10), (15, 15, 8)])
def test_cutout_hides_one_square_around_any_pixel(height: int, width: int, side: int) -> None:
    seen = augmented("cutout", batch_of(torch.ones(4000, 2, height, width))).images
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    hole = seen[:, 0] == 0
    assert torch.equal(hole, seen[:, 1] == 0)
    for length, covered in ((height, hole.any(2)), (width, hole.any(1))):
        first = covered.int().argmax(1)
        count = covered.sum(1)
        assert torch.equal(covered, intervals(first, count, length))
        # A middle at pixel m covers m - side // 2 to m - side // 2 + side - 1, as far as there are pixels.
        possible = [intervals_of(middle, side, length) for middle in range(length)]
        found = Counter(zip(first.tolist(), count.tolist(), strict=True))
        expected = Counter(possible)
        assert set(found) == set(expected)
        observed = [found[interval] for interval in expected]
        share = [4000 * times / length for times in expected.values()]
        assert stats.chisquare(observed, share).pvalue > 1e-3
    assert torch.equal(hole, hole.any(2)[:, :, None] & hole.any(1)[:, None, :])
    assert int(hole.flatten(1).sum(1).max()) == side**2


def intervals(first: Tensor, count: Tensor, length: int) -> Tensor:
    """Masks [n length] of intervals."""
    pixels = torch.arange(length)
    return (pixels >= first[:, None]) & (pixels < (first + count)[:, None])


def intervals_of(middle: int, side: int, length: int) -> tuple[int, int]:
    """First pixel and number of pixels of an interval that is cut off at the edges."""
    start, end = max(0, middle - side // 2), min(length, middle - side // 2 + side)
    return start, end - start


TWO, THREE = Classification("two", ("a", "b")), Classification("three", ("a", "b", "c"))
MAPS = (Segmentation("what", ("a", "b", "c")), Depth("far", 0.0, 1.0), Normals("turned"))
TASKS = (TWO, THREE, *MAPS)


def mapped_batch(count: int = 9, height: int = 12, width: int = 10) -> Batch:
    """Images whose first channel is their depth and whose last numbers them; some labels are missing.

    All maps follow from the depth.
    """
    draw = torch.Generator().manual_seed(5)
    depth = torch.rand(count, 1, height, width, generator=draw)
    depth[:, :, 0, 0] = math.nan
    known = depth.nan_to_num(0.0)
    directions = nn.functional.normalize(torch.cat([known, 1 - known, -known - 0.1], 1), dim=1)
    number = torch.arange(count).view(-1, 1, 1, 1).expand_as(known) / count
    return batch_of(
        torch.cat([known, number], 1),
        two=torch.randint(-1, 2, (count,), generator=draw),
        three=torch.randint(-1, 3, (count,), generator=draw),
        what=(known[:, 0] * 3).long(),
        far=depth,
        turned=directions,
    )


def outputs_for(tasks: Sequence[Task], count: int, size: Sequence[int]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(6)
    return [
        torch.randn(
            count, task.outputs, *(() if task.kind == "classification" else tuple(size)), generator=draw
        )
        for task in tasks
    ]


def soft_label_loss(task: Task, outputs: Tensor, soft: Tensor) -> float:
    """Cross-entropy with the label distribution of every sample, by hand, in float64."""
    logits = outputs.double()
    if task.outputs == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return float(-(soft * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean())


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("task", [TWO, THREE], ids=lambda task: task.name)
def test_the_loss_of_mixed_images_is_that_of_soft_labels(name: str, task: Classification) -> None:
    labels = torch.tensor([0, 1, 1, 0, task.classes - 1, 0, 1])
    batch = batch_of(torch.rand(7, 3, 16, 16), **{task.name: labels})
    seen = augmented(name, batch, (task,), seed=3)
    assert seen.mixed is not None
    assert 0 < seen.share < 1
    classes = torch.eye(task.classes, dtype=torch.double)
    soft = seen.share * classes[labels] + (1 - seen.share) * classes[seen.mixed[task.name]]
    outputs = outputs_for((task,), 7, ())
    found = float(batch_losses(outputs, (task,), seen)[0])
    assert found == pytest.approx(soft_label_loss(task, outputs[0], soft), rel=1e-5)


def partners(seen: Batch) -> Tensor:
    """The rows that were mixed in, told by a target that numbers the samples."""
    assert seen.mixed is not None
    assert sorted(seen.mixed["row"].tolist()) == list(range(len(seen.images)))
    return seen.mixed["row"]


def numbered(batch: Batch) -> Batch:
    return replace(batch, targets={**batch.targets, "row": torch.arange(len(batch.images))})


def test_mixup_blends_images_as_it_blends_their_losses() -> None:
    batch = numbered(mapped_batch())
    seen = augmented("mixup", batch, TASKS)
    other = partners(seen)
    assert torch.allclose(seen.images, seen.share * batch.images + (1 - seen.share) * batch.images[other])
    assert seen.mixed is not None
    for name, target in batch.targets.items():
        assert torch.equal(seen.targets[name].nan_to_num(-9), target.nan_to_num(-9))
        assert torch.equal(seen.mixed[name].nan_to_num(-9), target[other].nan_to_num(-9))


def test_mixup_draws_lambda_from_the_beta_distribution() -> None:
    batch = batch_of(torch.rand(2, 1, 4, 4))
    for alpha in (1.0, 0.4):
        torch.manual_seed(0)
        mixup = build_part("defense", f"mixup(alpha={alpha})")
        shares = [mixup.augment(batch, nn.Identity(), ()).share for _ in range(400)]
        assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_cuts_maps_with_their_images(seed: int) -> None:
    batch = numbered(mapped_batch())
    seen = augmented("cutmix", batch, TASKS, seed)
    other = partners(seen)
    foreign = (seen.images != batch.images).any(0).any(0)
    inside = foreign.any(1)[:, None] & foreign.any(0)
    assert torch.equal(foreign, inside)  # one rectangle, the same in all images
    assert seen.share == pytest.approx(1 - float(inside.float().mean()), abs=0.011)
    assert torch.equal(seen.images, torch.where(inside, batch.images[other], batch.images))
    assert seen.mixed is not None
    for targets in (seen.targets, seen.mixed):
        assert torch.equal(targets["far"].nan_to_num(0.0), seen.images[:, :1])
        assert torch.equal(targets["what"], (seen.images[:, 0] * 3).long())
        assert float(targets["turned"].norm(dim=1).sub(1).abs().max()) < 1e-6
    assert torch.equal(seen.targets["two"], batch.targets["two"])
    assert torch.equal(seen.mixed["two"], batch.targets["two"][other])


def test_cutmix_leaves_no_loss_of_a_dense_task_to_blend() -> None:
    seen = augmented("cutmix", mapped_batch(), TASKS, seed=1)
    outputs = outputs_for(TASKS, 9, (12, 10))
    whole = losses_of_outputs(outputs, TASKS, seen.targets)
    assert torch.allclose(batch_losses(outputs, TASKS, seen)[2:], whole[2:])


def test_cutmix_cuts_by_area() -> None:
    batch = batch_of(torch.stack([torch.zeros(1, 40, 60), torch.ones(1, 40, 60)]))
    sizes = []
    torch.manual_seed(0)
    cutmix = build_part("defense", "cutmix")
    for _ in range(300):
        seen = cutmix.augment(batch, nn.Identity(), ())
        cut = seen.images[0, 0] if seen.images[0].any() else 1 - seen.images[1, 0]
        if cut.any() and not torch.equal(seen.images, batch.images):
            assert float(cut.mean()) == pytest.approx(1 - seen.share, abs=1e-6)
            sizes.append((float(cut.any(1).float().mean()), float(cut.any(0).float().mean())))
    heights, widths = np.array(sizes).T
    assert len(sizes) > 100
    assert np.mean(heights) == pytest.approx(np.mean(widths), abs=0.05)  # in the image's proportions


# RandAugment


def test_randaugment_is_one_of_the_librarys_operations_for_each_image() -> None:
    images = draw_images(120, 3, 16, 16)
    library = torchvision_import.transforms.RandAugment(1, 9)
    torch.manual_seed(0)
    name = "randaugment(operations=1)"
    seen = (augmented(name, batch_of(images.float() / 255)).images * 255).round().to(torch.uint8)
    used = Counter()
    for image, found in zip(images, seen, strict=True):
        torch.manual_seed(0)
        possible = {}
        for operation, (magnitudes, signed) in library._AUGMENTATION_SPACE.items():
            strengths = magnitudes(31, 16, 16)
            strength = 0.0 if strengths is None else float(strengths[9])
            for sign in (1, -1) if signed else (1,):
                possible[operation, sign] = library._apply_image_or_video_transform(
                    image[None], operation, sign * strength, library.interpolation, library._fill
                )[0]
        matching = {key for key, wanted in possible.items() if torch.equal(wanted, found)}
        assert matching
        used.update({min(matching)} if len(matching) == 1 else {})
    assert len({operation for operation, _ in used}) > 8
    assert len(used) > 12


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_draws_all_operations_alike(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[tuple[str, int]] = Counter()

    def note(self: object, images: Tensor, name: str, strength: float, *_: object) -> Tensor:
        drawn[name, int(np.sign(strength))] += len(images)
        return images

    monkeypatch.setattr(torchvision_import.transforms.RandAugment, "_apply_image_or_video_transform", note)
    batch = batch_of(draw_images(5600, channels, 4, 4) / 255)
    seen = augmented("randaugment(operations=1)", batch)
    assert torch.allclose(seen.images, batch.images, atol=1e-6)
    assert sum(drawn.values()) == 5600
    per_operation = Counter[str]()
    for (name, _), count in drawn.items():
        per_operation[name] += count
    assert len(per_operation) == 14
    assert stats.chisquare(list(per_operation.values())).pvalue > 1e-3
    signed = [(drawn[name, 1], drawn[name, -1]) for name in per_operation if drawn[name, -1]]
    assert len(signed) == 9
    assert all(stats.binomtest(plus, plus + minus).pvalue > 1e-4 for plus, minus in signed)


def test_randaugment_applies_as_many_operations_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_one(self: object, images: Tensor, *_: object) -> Tensor:
        return images + 1

    monkeypatch.setattr(torchvision_import.transforms.RandAugment, "_apply_image_or_video_transform", add_one)
    batch = batch_of(torch.zeros(50, 3, 4, 4))
    for operations in (1, 2, 5):
        seen = augmented(f"randaugment(operations={operations})", batch).images
        assert torch.equal((seen * 255).round(), torch.full_like(seen, operations))


# UEraser


class Brightness(nn.Module):
    """One logit per image that falls with its brightness, and statistics that every pass would change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [-images.mean((1, 2, 3))[:, None] + 0 * self.norm(images[:, :1]).mean()]


def versions(batch: Batch, count: int, seed: int) -> Tensor:
    """What UEraser-Lite makes of a batch, several times in a row [k b c h w]."""
    torch.manual_seed(seed)
    lite = build_part("defense", "ueraser-lite")
    return torch.stack([lite.augment(batch, nn.Identity(), ()).images for _ in range(count)])


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("name", "count"), [("ueraser", 5), ("ueraser-max", 5), ("ueraser(repeats=3)", 3)])
def test_ueraser_takes_the_version_of_every_image_with_the_largest_loss(
    name: str, count: int, mixed: bool
) -> None:
    labels = torch.tensor([0, 1, 0, 1, MISSING, 1])
    batch = batch_of(torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1)), two=labels)
    if mixed:
        batch = replace(batch, mixed={"two": labels.roll(1)}, share=0.8)
    net = Brightness().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(2)
    seen = build_part("defense", name).augment(batch, net, (TWO,))
    # By hand: binary cross-entropy of the logit, of label 1 log(1 + exp(-z)), of label 0 log(1 + exp(z)).
    made = versions(batch, count, 2)
    logits = -made.mean((2, 3, 4)).double()
    losses = nll(logits, labels)
    if mixed:
        losses = 0.8 * losses + 0.2 * nll(logits, labels.roll(1))
    best = losses.argmax(0)
    assert torch.equal(seen.images, made[best, torch.arange(6)])
    assert len(best.unique()) > 1
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert net.norm.training


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    signs = torch.where(labels == 1, -1.0, 1.0)
    return torch.log1p(torch.exp(signs * logits)) * (labels != MISSING)


def test_ueraser_chooses_by_the_mean_loss_over_the_tasks() -> None:
    tasks = (TWO, THREE)
    torch.manual_seed(0)
    net = MultiTaskNet(build_part("backbone", "small(width=2)"), tasks, (3, 12, 12)).train()
    batch = batch_of(
        torch.rand(8, 3, 12, 12), two=torch.randint(-1, 2, (8,)), three=torch.randint(-1, 3, (8,))
    )
    torch.manual_seed(4)
    seen = build_part("defense", "ueraser").augment(batch, net, tasks)
    made = versions(batch, 5, 4)
    losses = torch.zeros(5, 8)
    with torch.no_grad():
        for version, images in enumerate(made):
            outputs = copy.deepcopy(net)(images)  # in training mode: with the statistics of this batch
            for row in range(8):
                alone = {name: target[row : row + 1] for name, target in batch.targets.items()}
                losses[version, row] = losses_of_outputs(
                    [out[row : row + 1] for out in outputs], tasks, alone
                ).mean()
    labeled = (batch.targets["two"] != MISSING) | (batch.targets["three"] != MISSING)
    best = losses.argmax(0)
    assert torch.equal(seen.images[labeled], made[best, torch.arange(8)][labeled])
    assert labeled.sum() > 4


@pytest.mark.parametrize(
    ("name", "progress", "several"),
    [
        *(("ueraser", epoch / 300, epoch < 50) for epoch in (0, 49, 50, 299)),
        *(("ueraser", epoch / 60, epoch < 10) for epoch in (0, 9, 10, 59)),
        ("ueraser-lite", 0.0, False),
        ("ueraser-max", 0.0, True),
        ("ueraser-max", 299 / 300, True),
        ("ueraser(share=0.5)", 0.4, True),
        ("ueraser(share=0.5)", 0.5, False),
    ],
)
def test_ueraser_has_several_versions_in_the_first_sixth_of_the_epochs(
    name: str, progress: float, several: bool
) -> None:
    batch = replace(batch_of(torch.rand(2, 3, 8, 8), two=torch.tensor([0, 1])), progress=progress)
    passes = []
    net = Brightness().train()
    net.register_forward_hook(lambda *_: passes.append(1))
    build_part("defense", name).augment(batch, net, (TWO,))
    assert len(passes) == (5 if several else 0)


def test_training_tells_a_defense_how_far_it_is() -> None:
    told: list[float] = []

    class Listening(NoDefense):
        def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
            told.append(batch.progress)
            return batch

    train = Split(draw_images(8, 3, 16, 16), {"two": torch.tensor([0, 1] * 4)})
    net = MultiTaskNet(build_part("backbone", "small(width=2)"), (TWO,), (3, 16, 16))
    balancer = build_part("weighting", "ew").start((TWO,), CPU)
    recipe = Recipe(epochs=4, batch=4)
    for _ in train_epochs(net, train, (TWO,), recipe, Augmentation(), balancer, Listening(), CPU):
        pass
    assert told == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_uerasers_operations_change_brightness_contrast_and_the_order_of_channels() -> None:
    torch.manual_seed(0)
    smooth = torch.linspace(0.3, 0.6, 3).view(1, 3, 1, 1).expand(64, 3, 16, 16)
    seen = torch.cat([versions(batch_of(smooth), 1, seed)[0] for seed in range(6)])
    assert seen.min() >= 0
    assert seen.max() <= 1
    plain = build_part("defense", "ueraser-lite(probability=0)")
    torch.manual_seed(0)
    unchanged = torch.cat([plain.augment(batch_of(smooth), nn.Identity(), ()).images for _ in range(6)])
    # A fractal makes a plain image uneven, which TrivialAugment's operations do only at its edges.
    assert uneven(seen) > 0.6
    assert uneven(unchanged) < 0.05
    middle = unchanged[:, :, 8, 8]
    shuffled = (middle.argsort(1) != torch.arange(3)).any(1).float().mean()
    assert 0.2 < float(shuffled) < 0.65  # half of the images, of which one order in six is the old one


def uneven(images: Tensor) -> float:
    """The share of images whose middle is not of one color per channel."""
    return float((images[:, :, 7:9, 7:9].flatten(2).std(2) > 1e-3).any(1).float().mean())


@pytest.mark.parametrize("name", ["randaugment", "ueraser-lite", "ueraser", "ueraser-max"])
def test_what_moves_pixels_is_not_for_dense_tasks(name: str) -> None:
    assert not build_part("defense", name).dense
    assert not build_part("defense", f"jpeg+{name}").dense
