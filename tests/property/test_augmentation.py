"""Crops and flips are nothing but crops and flips, whatever the image's and the crop's sides."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.training.augmentation import CropAndFlip, augment, center_crop, draw_crop_and_flip
from bench.training.loaders import make_batch
from bench.values import Augmentation, Batch, Split


def augmented(images: Tensor, augmentation: Augmentation) -> Tensor:
    """What `augment` makes of images that have no targets."""
    return augment(Batch(images, {}, torch.arange(len(images))), augmentation, ()).images


def centered(images: Tensor, augmentation: Augmentation) -> Tensor:
    """What `center_crop` makes of images that have no targets."""
    return center_crop(Batch(images, {}, torch.arange(len(images))), augmentation, ()).images


@st.composite
def images_and_crops(draw: st.DrawFn) -> tuple[Tensor, int | None]:
    """Images [b c h w] of which every pixel is different, and a crop that fits."""
    count, channels, height, width = (draw(st.integers(1, top)) for top in (4, 3, 9, 9))
    crop = draw(st.none() | st.integers(1, min(height, width)))
    size = count * channels * height * width
    return torch.arange(size, dtype=torch.float32).view(count, channels, height, width), crop


def seen_rows_and_columns(out: Tensor, image: Tensor) -> tuple[list[int], list[int]]:
    """Where the rows and the columns of an augmented image [c s s'] come from, or fail."""
    channels, height, width = image.shape
    place = (out - image.min()).long()
    columns, rows, channel = place % width, place // width % height, place // (width * height)
    assert torch.equal(channel, torch.arange(channels)[:, None, None].expand_as(channel))
    assert torch.equal(rows, rows[:1, :, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1, :1].expand_as(columns))
    return rows[0, :, 0].tolist(), columns[0, 0].tolist()


def is_run(places: list[int]) -> bool:
    """Whether these are neighbors, in rising order."""
    return places == list(range(places[0], places[0] + len(places)))


@settings(max_examples=80, deadline=None)
@given(case=images_and_crops(), flip=st.booleans(), seed=st.integers(0, 2**32))
def test_an_augmented_image_is_a_crop_of_the_image_maybe_mirrored(
    case: tuple[Tensor, int | None], flip: bool, seed: int
) -> None:
    images, crop = case
    before = images.clone()
    torch.manual_seed(seed)
    out = augmented(images, Augmentation(crop, flip))
    assert out.shape == (*images.shape[:2], *((crop, crop) if crop else images.shape[2:]))
    for one, image in zip(out, images, strict=True):
        rows, columns = seen_rows_and_columns(one, image)
        assert is_run(rows)
        assert is_run(columns) or (flip and is_run(columns[::-1]))
    assert torch.equal(images, before)


@settings(max_examples=40, deadline=None)
@given(case=images_and_crops(), flip=st.booleans(), seed=st.integers(0, 2**32))
def test_gradients_reach_the_pixels_that_are_seen_and_only_those(
    case: tuple[Tensor, int | None], flip: bool, seed: int
) -> None:
    images, crop = case
    places = images.clone().requires_grad_(True)
    torch.manual_seed(seed)
    out = augmented(places, Augmentation(crop, flip))
    (out * (out.detach() + 1)).sum().backward()
    assert places.grad is not None
    seen = torch.isin(images, out)
    assert torch.equal(places.grad, torch.where(seen, images + 1, 0.0))


def gather_crops(values: Tensor, view: CropAndFlip) -> Tensor:
    """Crop and flip maps [b ... h w] pixel by pixel, with one index for every row and every column."""
    count, height, width = len(values), *values.shape[-2:]
    rows, columns = (torch.arange(side, device=values.device).expand(count, -1) for side in (height, width))
    if view.corner is not None:
        steps = torch.arange(view.side, device=values.device)
        rows, columns = (start[:, None] + steps for start in view.corner)
    if view.flipped is not None:
        columns = torch.where(view.flipped[:, None], columns.flip(1), columns)
    shape, ones = values.shape[1:-2], [1] * (values.ndim - 3)
    rows, columns = rows.view(count, *ones, -1, 1), columns.view(count, *ones, 1, -1)
    values = values.gather(-2, rows.expand(count, *shape, -1, width))
    return values.gather(-1, columns.expand(*values.shape[:-1], -1))


@settings(max_examples=80, deadline=None)
@given(
    case=images_and_crops(),
    flip=st.booleans(),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 2**32),
)
def test_crops_and_their_gradients_are_those_of_a_gather(
    case: tuple[Tensor, int | None], flip: bool, layout: torch.memory_format, seed: int
) -> None:
    torch.manual_seed(seed)
    images = case[0].contiguous(memory_format=layout).requires_grad_(True)
    view = draw_crop_and_flip(images, Augmentation(case[1], flip), len(images))
    crops, wanted = view.crop(images), gather_crops(images, view)
    assert torch.equal(crops, wanted)
    assert torch.equal(view.crop(images[:, 0]), gather_crops(images[:, 0], view))
    weights = torch.randn_like(crops)
    gradients = [torch.autograd.grad((seen * weights).sum(), images)[0] for seen in (crops, wanted)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("flip", [False, True])
def test_cropped_bytes_are_the_floats_that_are_cropped_as_floats(flip: bool) -> None:
    stored = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8)
    split, rows, cpu = Split(stored, {"label": torch.arange(6)}), torch.tensor([4, 0, 3]), torch.device("cpu")
    crops = Augmentation(9, flip)

    def crop(stored: Split) -> Split:
        return augment(stored, crops, ())

    torch.manual_seed(0)
    seen = make_batch(split, rows, cpu, crop)
    torch.manual_seed(0)
    view = draw_crop_and_flip(stored, crops, 3)
    assert torch.equal(seen.images, gather_crops(stored[rows].float() / 255, view))
    assert torch.equal(seen.targets["label"], rows)


@settings(max_examples=80, deadline=None)
@given(case=images_and_crops(), flip=st.booleans())
def test_the_central_crop_is_in_the_middle_and_never_mirrored(
    case: tuple[Tensor, int | None], flip: bool
) -> None:
    images, crop = case
    out = centered(images, Augmentation(crop, flip))
    assert torch.equal(out, centered(images, Augmentation(crop, flip)))
    for one, image in zip(out, images, strict=True):
        for places, side in zip(seen_rows_and_columns(one, image), image.shape[1:], strict=True):
            assert is_run(places)
            before, after = places[0], side - 1 - places[-1]
            assert abs(before - after) <= 1


def test_every_place_of_the_crop_and_both_directions_are_drawn_equally_often() -> None:
    count, height, width, crop = 6000, 7, 6, 5
    torch.manual_seed(0)
    image = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    corner = augmented(image.expand(count, -1, -1, -1), Augmentation(crop, flip=True))[:, 0, 0, 0].long()
    # Of 3 tops × 2 lefts × 2 directions every one puts another pixel into the corner.
    seen = corner.bincount()
    assert seen.count_nonzero() == 12
    assert seen[seen > 0].float() == pytest.approx(count / 12, rel=0.2)


def test_images_of_a_batch_are_cropped_and_mirrored_on_their_own() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 12, 12)
    out = augmented(image.expand(8, -1, -1, -1), Augmentation(9, flip=True))
    assert any(not torch.equal(out[0], other) for other in out[1:])


@pytest.mark.parametrize("shared", [False, True])
def test_maps_of_dense_tasks_are_cropped_and_mirrored_with_their_images(shared: bool) -> None:
    torch.manual_seed(0)
    count, height, width = 8, 9, 11
    place = torch.arange(height * width).view(1, height, width).expand(count, -1, -1)
    x = (place.float() + 1) / (height * width + 1)
    targets = {
        "what": place.clone(),
        "far": place[:, None].float(),
        "turned": torch.stack([x, torch.zeros_like(x), -(1 - x * x).sqrt()], dim=1),
        "label": torch.arange(count),
    }
    tasks = (Segmentation("what", tuple(map(str, range(99)))), Depth("far", 0.0, 99.0), Normals("turned"))
    batch = Batch(place[:, None].float() / 98, targets, torch.arange(count))
    seen = augment(batch, Augmentation(6, flip=True), tasks, shared=shared)
    where = (seen.images[:, 0] * 98).round().long()
    assert torch.equal(seen.targets["what"], where)
    assert torch.equal(seen.targets["far"][:, 0], where.float())
    mirrored = where[:, 0, 0] > where[:, 0, -1]
    assert mirrored.any()
    assert shared or not mirrored.all()
    sign = torch.where(mirrored, -1.0, 1.0).view(-1, 1, 1)
    assert torch.allclose(seen.targets["turned"][:, 0], sign * (where + 1) / (height * width + 1))
    assert torch.equal(seen.targets["turned"][:, 1], torch.zeros_like(sign.expand_as(where)))
    assert torch.equal(seen.targets["label"], torch.arange(count))
    middle = center_crop(batch, Augmentation(6, flip=True), tasks)
    assert torch.equal(middle.targets["what"], (middle.images[:, 0] * 98).round().long())
