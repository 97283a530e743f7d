"""A few images of a dataset, cropped, and the sizes of the whole: enough to measure speeds with."""

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from bench.api import Dataset, MultiTaskData
from bench.engine.stages.context import RunContext, network_input_shape
from bench.training.loaders import select_rows
from bench.values import DENSE, Split

SIDE = 32
"""Images are cropped to this side, in px; times are taken to grow with the number of pixels."""

ROWS = 64
"""Images of a sample."""


class _DecodingError(Exception):
    """All images of a dataset would have to be decoded first."""


@dataclass(frozen=True)
class DatasetSample:
    """A few images of a dataset.

    Attributes:
        data: the images, cropped to `SIDE`, in the training split.
        train: number of training images of the whole dataset.
        test: number of its test images.
        crop_pixels: how many times as many pixels a network sees of an image of the dataset.
        image_pixels: how many times as many pixels a whole image has.
    """

    data: MultiTaskData
    train: int
    test: int
    crop_pixels: float
    image_pixels: float

    def facts(self) -> dict[str, Any]:
        """Return its sizes, and what the speed of networks depends on."""
        kinds = sorted(task.kind for task in self.data.tasks)
        shape = [*network_input_shape(self.data)[1:], *(kinds if set(kinds) & DENSE else ())]
        sizes = {"train": self.train, "test": self.test}
        return {**sizes, "crop": self.crop_pixels, "image": self.image_pixels, "shape": shape}


def take_sample(part: Dataset, run_context: RunContext) -> DatasetSample:
    """Load a few images of a dataset, without decoding all of them if that was not done before.

    Raises:
        Exception: whatever a dataset raises that is not there.
    """
    decoding: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        decoding.append(total)
        raise _DecodingError

    try:
        data = part.load(run_context.data_root, run_context.cache, stop)
        train, test = len(data.train), len(data.test)
    except _DecodingError:
        with tempfile.TemporaryDirectory() as folder:
            data = _with_few_images(part).load(run_context.data_root, Path(folder))
            train, test = len(data.train), len(data.test)
            total = decoding[0]
            train, test = (getattr(part, "train", total * train // (train + test)),) * 2
            test = getattr(part, "test", total - train)
            return _crop_sample(data, train, test)
    return _crop_sample(data, train, test)


def _with_few_images(part: Dataset) -> Dataset:
    """Return a dataset with a few images, if it has a parameter for that."""
    wanted = {"limit": 2 * ROWS, "train": ROWS, "test": ROWS}
    given = {field.name: wanted[field.name] for field in fields(part) if field.name in wanted}  # type: ignore[arg-type]
    return replace(part, **given)  # type: ignore[type-var]


def _crop_sample(data: MultiTaskData, train: int, test: int) -> DatasetSample:
    rows = select_rows(data.train, torch.arange(min(ROWS, len(data.train))))
    _, height, width = network_input_shape(data)
    image_height, image_width = rows.images.shape[2:]
    high, wide = min(SIDE, height), min(SIDE, width)

    def crop(values: torch.Tensor) -> torch.Tensor:
        return values[..., :high, :wide].clone() if values.shape[-2:] == rows.images.shape[2:] else values

    targets = {name: crop(target) for name, target in rows.targets.items()}
    small = Split(crop(rows.images), targets)
    augmentation = replace(data.augmentation, crop=None)
    return DatasetSample(
        MultiTaskData(data.tasks, small, small, augmentation),
        train,
        test,
        height * width / (high * wide),
        image_height * image_width / (high * wide),
    )
