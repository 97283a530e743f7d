"""Batches of random crops and flips beside a loader that handles every image alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.training.augmentation import augment, draw_crop_and_flip
from bench.training.loaders import iterate_batches, to_device_if_it_fits
from bench.values import Augmentation, Split
from tests.benchmarks.side_by_side import SideBySide
from tests.property.test_augmentation import gather_crops

SIDE, CROP = 140, 128
CROPS = Augmentation(CROP, flip=True)


class ImageByImage(Dataset[Tensor]):
    """Crops and flips as scripts do: with PIL, an image at a time, in the loader's workers."""

    def __init__(self, images: Tensor) -> None:
        self._images = images.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> Tensor:
        image = Image.fromarray(self._images[row])
        top, left = torch.randint(0, SIDE - CROP + 1, (2,)).tolist()
        image = image.crop((left, top, left + CROP, top + CROP))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels: NDArray[np.uint8] = np.array(image)
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255)


@pytest.fixture
def images(request: pytest.FixtureRequest) -> Tensor:
    """Return prepared images, few of them if nothing is timed."""
    count = 2048 if request.config.getoption("benchmark_enable") else 8
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)


@pytest.mark.parametrize("batch", [128, 512])
def test_crops_beside_a_loader_of_single_images(
    side_by_side: SideBySide, device: torch.device, images: Tensor, batch: int
) -> None:
    split = to_device_if_it_fits(Split(images, {}), device)
    workers = 2 if len(images) > batch else 0
    loader = DataLoader(
        ImageByImage(images), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def image_by_image() -> None:
        for some in loader:
            some.to(device)

    def crop(stored: Split) -> Split:
        return augment(stored, CROPS, ())

    def ours() -> None:
        for _ in iterate_batches(split, batch, device, shuffle=True, crop=crop):
            pass

    side_by_side(
        f"crops of {SIDE}-pixel images, batches of {batch}, beside 2 loader workers",
        plain=image_by_image,
        ours=ours,
        target=5,
        rounds=3,
    )


@pytest.mark.parametrize(("count", "side", "crop"), [(64, 140, 128), (128, 36, 32)])
def test_gradients_of_crops_beside_a_gather(
    side_by_side: SideBySide, device: torch.device, count: int, side: int, crop: int
) -> None:
    images = torch.rand(count, 3, side, side, device=device, requires_grad=True)
    view = draw_crop_and_flip(images, Augmentation(crop, flip=True), count)
    weights = torch.rand(count, 3, crop, crop, device=device)
    side_by_side(
        f"crops with gradients, {side} to {crop} pixels, beside a gather",
        plain=lambda: torch.autograd.grad((gather_crops(images, view) * weights).sum(), images),
        ours=lambda: torch.autograd.grad((view.crop(images) * weights).sum(), images),
    )
