"""Example images of an attack as strips of PNG: clean, δ amplified, released."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.example_images import ExampleImages
from bench.files import hash_bytes
from leaderboard.page.content import PageContent

ReadExamples = Callable[[str], ExampleImages | None]
"""Returns the example images of the poison with a key, None if there are none."""

MIDDLE, LARGEST = 128, 127
"""Gray value of an unchanged pixel in the picture of δ, and the largest step from it."""

GAP = 4
"""Transparent pixels between the images of a strip."""


@dataclass(frozen=True)
class Strip:
    """Some images side by side.

    Attributes:
        title: what they are.
        path: of the PNG in the page's folder.
        content: the PNG.
        alt: its description in words.
    """

    title: str
    path: str
    content: bytes
    alt: str


@dataclass(frozen=True)
class ExampleStrips:
    """The strips of one poison: those of a dataset.

    Attributes:
        dataset: its label.
        strips: clean, δ amplified, released.
        is_shrunk: whether the dataset has larger images.
    """

    dataset: str
    strips: Sequence[Strip]
    is_shrunk: bool


def example_strips(content: PageContent, attack: str, read: ReadExamples) -> list[ExampleStrips]:
    """Return the strips of an attack, for each dataset those of its first poison that has example images."""
    poisons: dict[str, dict[str, None]] = {}
    for record in sorted(content.records_by_attack[attack], key=lambda record: int(record.cell["seed"])):
        poisons.setdefault(str(record.cell["dataset"]), {})[record.poison] = None
    found = {
        dataset: next((examples for key in keys if (examples := read(key))), None)
        for dataset, keys in sorted(poisons.items())
    }
    return [
        ExampleStrips(dataset, _draw_strips(examples), examples.is_shrunk)
        for dataset, examples in found.items()
        if examples is not None
    ]


def _draw_strips(examples: ExampleImages) -> list[Strip]:
    delta = examples.released.astype(np.int16) - examples.clean
    factor = LARGEST / max(int(np.abs(delta).max()), 1)
    amplified = np.clip(np.rint(MIDDLE + factor * delta), 0, 255).astype(np.uint8)
    count = f"{len(examples.rows)} training images"
    return [
        _encode_strip("clean", examples.clean, f"{count}, unchanged"),
        _encode_strip(
            f"δ × {factor:.3g}", amplified, f"the change of these images, times {factor:.3g}, on gray"
        ),
        _encode_strip("released", examples.released, "the same images as the attack releases them"),
    ]


def _encode_strip(title: str, images: NDArray[np.uint8], alt: str) -> Strip:
    """Return images [k c h w] as a strip; those without three channels as the mean of their channels."""
    from PIL import Image

    count, channels, height, width = images.shape
    colors = images if channels == 3 else images.mean(1, keepdims=True).round().astype(np.uint8).repeat(3, 1)
    canvas = np.zeros((height, count * (width + GAP) - GAP, 4), np.uint8)
    for number, image in enumerate(colors):
        left = number * (width + GAP)
        canvas[:, left : left + width, :3] = image.transpose(1, 2, 0)
        canvas[:, left : left + width, 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG")
    content = file.getvalue()
    return Strip(title, f"images/{hash_bytes(content)[:16]}.png", content, alt)
