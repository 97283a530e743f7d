"""What attacks do to images: clean image, amplified δ, released image."""

import math

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from bench.example_images import ExampleImages, read_example_images
from bench.record import CLEAN
from leaderboard.figures.figure_data import FigureData
from leaderboard.figures.style import shorten, wrap_text
from leaderboard.ranking import attack_order, track_marker
from leaderboard.rows import dataset_names, full_protection_rows

TILE = 0.55
"""Smallest width of an image, in inches."""

GAP = 0.04
"""Between the images of a triplet, as a share of the width of one."""

TITLE = 0.25
"""Height of the name of an attack, in inches."""

MARGIN = 0.1
"""Between the images of two attacks, in inches."""

Image = NDArray[np.uint8]


def draw_images(data: FigureData) -> Figure | None:
    """Draw clean image, amplified δ and released image for every attack; None if no poison has images.

    The fewer attacks, the more images of each. δ is shown around gray, and as strong as the range allows.
    """
    found = list(_find_examples(data))
    if not found:
        return None
    columns = min(len(found), max(1, int(data.width / (3 * TILE + MARGIN))))
    lines = math.ceil(len(found) / columns)
    shown = max(1, 4 // lines)
    mosaics = [(title, *_compose_triplets(examples, shown)) for title, examples in found]
    block = data.width / columns
    inches = block - MARGIN
    tallest = max(mosaic.shape[0] / mosaic.shape[1] for _, mosaic, _ in mosaics) * inches
    height = (tallest + TITLE) * lines + TITLE
    figure = Figure((data.width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all images, with inches as its unit, is drawn fast
    for number, (title, mosaic, factor) in enumerate(mosaics):
        left, top = number % columns * block + MARGIN / 2, number // columns * (tallest + TITLE) + TITLE
        bottom = top + mosaic.shape[0] / mosaic.shape[1] * inches
        axes.imshow(mosaic, interpolation="nearest", extent=(left, left + inches, bottom, top))
        axes.text(left, top - 0.05, f"{shorten(title, inches - 0.5)}, δ × {factor}")
    axes.set(xlim=(0, data.width), ylim=(height, 0))
    axes.set_axis_off()
    shrunk = "; images were shrunk, which weakens δ" if any(e.is_shrunk for _, e in found) else ""
    caption = f"clean image, amplified δ, released image{shrunk}"
    axes.text(data.width / 2, height - 0.05, wrap_text(caption, data.width), ha="center")
    return figure


def _find_examples(data: FigureData) -> list[tuple[str, ExampleImages]]:
    """Return a title and the images of a poison, of the first seed, for every dataset and attack."""
    if data.run is None:
        return []
    rows, mark = full_protection_rows(data.frame), track_marker(data.frame)
    datasets, found = dataset_names(data.frame), []
    for dataset in datasets:
        poisons: DataFrame = rows[rows["dataset"] == dataset].sort_values("seed").drop_duplicates("attack")
        keys = poisons.set_index("attack")["poison"]
        for attack in attack_order(data.frame):
            if attack != CLEAN and attack in keys.index:
                examples = read_example_images(data.run, keys[attack])
                if examples is not None:
                    found.append(
                        (f"{mark(attack)} {dataset}" if len(datasets) > 1 else mark(attack), examples)
                    )
    return found


def _compose_triplets(examples: ExampleImages, shown: int) -> tuple[Image, int]:
    """Return triplets below each other as one image [h w 3], and the factor of δ."""
    clean, released = (images[:shown].astype(int) for images in (examples.clean, examples.released))
    change = released - clean
    factor = max(1, 127 // max(1, int(np.abs(change).max())))
    triplets = np.stack([clean, (128 + factor * change).clip(0, 255), released], axis=1)
    if triplets.shape[2] != 3:  # gray, or more channels than a screen has
        triplets = np.repeat(triplets[:, :, :1], 3, axis=2)
    _, _, _, height, width = triplets.shape
    gap = max(1, round(GAP * width))
    padded = np.pad(triplets, [(0, 0), (0, 0), (0, 0), (0, gap), (0, gap)], constant_values=255)
    lines, tiles, _, height, width = padded.shape
    mosaic = padded.transpose(0, 3, 1, 4, 2).reshape(lines * height, tiles * width, 3)
    return mosaic[:-gap, :-gap].astype(np.uint8), factor
