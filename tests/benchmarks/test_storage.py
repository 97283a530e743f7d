"""Poisons: making released images of a δ, and what is stored, beside float32 arrays."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.crafting.noise_table import Rows
from bench.engine.stages.budget import apply_poison, quantize_delta
from bench.engine.storage.store import POISONS, Store
from bench.tasks.classification import Classification
from bench.values import Budget, Split
from mtlue.generator import Generator
from tests.benchmarks.side_by_side import SideBySide

CPU = torch.device("cpu")
KEY = "0123456789abcdef"
SHAPE = (128, 3, 140, 140)


def faces_and_noise() -> tuple[Split, Rows]:
    """Random images, and δ within the budget."""
    train = Split(torch.randint(0, 256, SHAPE, dtype=torch.uint8), {})
    noise = Rows(train)
    noise.set_rows(torch.arange(len(train)), (torch.rand(SHAPE) * 2 - 1) * 8 / 255)
    return train, noise


def test_released_images(side_by_side: SideBySide) -> None:
    train, noise = faces_and_noise()
    delta = noise._rows.numpy()

    def image_by_image() -> NDArray[np.uint8]:
        released = np.empty(SHAPE, np.uint8)
        for number, image in enumerate(train.images.numpy()):
            steps = np.round(delta[number].astype(np.float32) * 255).clip(-8, 8)
            released[number] = (image + steps).clip(0, 255)
        return released

    def ours() -> Tensor:
        change, _ = quantize_delta(noise, train, Budget("linf", 8), CPU, "any")
        return apply_poison(train.images, change, Budget("linf", 8), "any")

    side_by_side(
        "δ to released images, 140 px, with audit and statistics, beside a loop without",
        plain=image_by_image,
        ours=ours,
    )


def test_stored_change(side_by_side: SideBySide, tmp_path: Path) -> None:
    train, noise = faces_and_noise()
    change, _ = quantize_delta(noise, train, Budget("linf", 8), CPU, "any")
    Store(tmp_path).save(POISONS, KEY, {"change": change}, {})
    stored = sum(path.stat().st_size for path in (tmp_path / POISONS / KEY).iterdir())
    side_by_side.compare(
        "bytes of a stored poison, beside float32", plain=4 * change.numel(), ours=stored, target=4
    )


def test_generator_alone(side_by_side: SideBySide) -> None:
    """For the paper's UTKFace: 18,966 images, tasks of 9, 2 and 5 classes."""
    tasks = [Classification(str(k), tuple(map(str, range(k)))) for k in (9, 2, 5)]
    generator = Generator(tasks, 3, 140, 140, epsilon=8 / 255, base_width=64, embedding_channels=16)
    size = sum(value.nbytes for value in generator.state_dict().values())
    side_by_side.compare(
        "bytes of MTL-UE's generator for UTKFace, beside float32",
        plain=4 * 18_966 * 3 * 140 * 140,
        ours=size,
        target=50,
    )
