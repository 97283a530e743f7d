"""The attacks that train nothing, beside a script that makes the noise image by image."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines.ar import draw_signals, find_processes, signal_norms
from baselines.crafting.lift import ImageCell, assign_cells
from baselines.lsp import draw_clusters
from bench.api import CraftContext
from bench.catalog.build import build_part
from bench.tasks.classification import Classification
from bench.values import Augmentation, Split
from tests.benchmarks.side_by_side import SideBySide

CPU = torch.device("cpu")
CASES = [(32, (10,), 2048), (140, (2,) * 40, 128)]
"""Sides of the images, classes of the tasks, number of images."""

Image = NDArray[np.float32]


def make_split(side: int, classes: tuple[int, ...], count: int) -> tuple[Split, CraftContext]:
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    tasks = tuple(Classification(str(i), tuple(map(str, range(k)))) for i, k in enumerate(classes))
    targets = {task.name: torch.arange(count) % task.classes for task in tasks}
    context = CraftContext(
        tasks, Augmentation(), 8 / 255, lambda: None, lambda count: [], CPU, lambda *step: None
    )
    return Split(images, targets), context


def place(cell: ImageCell) -> tuple[slice, slice, slice]:
    """Return a cell's part of an image."""
    rows, columns = slice(cell.top, cell.top + cell.height), slice(cell.left, cell.left + cell.width)
    return slice(None), rows, columns


@pytest.mark.parametrize(("side", "classes", "count"), CASES, ids=str)
def test_lsp(side_by_side: SideBySide, side: int, classes: tuple[int, ...], count: int) -> None:
    train, context = make_split(side, classes, count)
    attack = build_part("attack", "lsp")

    def image_by_image() -> Image:
        layout = assign_cells(context.tasks, "patch", train)
        noise = np.zeros(train.images.shape, np.float32)
        for task, cell in zip(layout.tasks, layout.cells, strict=True):
            size = -(-cell.height // 4), -(-cell.width // 4)
            grid = 3, -(-cell.height // size[0]), -(-cell.width // size[1])
            labels = train.targets[task.name]
            samples = draw_clusters(labels, task.classes, grid[0] * grid[1] * grid[2], 10.0).numpy()
            for image in range(count):
                patches = samples[image].reshape(grid).repeat(size[0], 1).repeat(size[1], 2)
                cropped = patches[:, : cell.height, : cell.width]
                noise[image][place(cell)] = cropped * (6 / 255 / np.sqrt((cropped**2).mean()))
        return noise

    side_by_side(
        f"LSP, {count} images of {side} px, {len(classes)} task(s), beside a loop over images",
        plain=image_by_image,
        ours=lambda: attack.craft(train, context),
        target=50,
        rounds=5,
    )


@pytest.mark.parametrize(("side", "count"), [(32, 1024), (140, 64)])
def test_ar(side_by_side: SideBySide, side: int, count: int) -> None:
    """Signals of given processes; the plain form makes four, and its time is scaled to all."""
    torch.manual_seed(0)
    process = find_processes(1, shape=(3, side, side), crop=4, draws=100_000)
    mixes, generator = process[0].numpy(), np.random.default_rng(0)

    def image_by_image() -> Image:
        noise = np.zeros((4, 3, side + 4, side + 4), np.float32)
        for number in range(len(noise)):
            image = noise[number]
            image[:] = generator.standard_normal(image.shape)
            for i, j, channel in product(range(2, side + 4), range(2, side + 4), range(3)):
                image[channel, i, j] = 0
                image[channel, i, j] = (image[channel, i - 2 : i + 1, j - 2 : j + 1] * mixes[channel]).sum()
            noise[number] = image / np.linalg.norm(image[:, 4:, 4:])
        return noise[:, :, 4:, 4:]

    def all_at_once() -> torch.Tensor:
        signals = draw_signals(process, count, side, side, 4)[0]
        return signals / signal_norms(signals)

    side_by_side(
        f"AR, 4 images of {side} px by a loop, beside {count} images (multiply by {count // 4})",
        plain=image_by_image,
        ours=all_at_once,
        rounds=3,
    )


@pytest.mark.parametrize("attack", ["random-samplewise", "random"])
def test_random(side_by_side: SideBySide, attack: str) -> None:
    train, context = make_split(140, (2,) * 40, 128)
    part = build_part("attack", attack)
    layout = assign_cells(context.tasks, "patch", train)
    generator = np.random.default_rng(0)

    def image_by_image() -> Image:
        noise = np.zeros(train.images.shape, np.float32)
        patterns = [
            generator.uniform(-8 / 255, 8 / 255, (2, 3, cell.height, cell.width)) for cell in layout.cells
        ]
        for image in range(len(train)):
            if attack == "random-samplewise":
                noise[image] = generator.uniform(-8 / 255, 8 / 255, noise[image].shape)
                continue
            for task, cell, pattern in zip(layout.tasks, layout.cells, patterns, strict=True):
                noise[image][place(cell)] = pattern[int(train.targets[task.name][image])]
        return noise

    side_by_side(
        f"{attack}, 128 images of 140 px, 40 tasks, beside a loop over images",
        plain=image_by_image,
        ours=lambda: part.craft(train, context),
        rounds=5,
    )
