"""The embedded dataset: real handwritten digits, two on each canvas."""

from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.api import MultiTaskData
from bench.memory import require_memory
from bench.tasks.classification import Classification
from bench.values import Augmentation, Kind, Progress, Recipe, Split, ignore_progress

SIDE = 32
"""Side of the canvas; each half holds one digit."""

GLYPH = 16
"""Side of a digit on the canvas, twice the original 8."""

GROUND = (0.2, 0.6)
"""Range of the canvas's color, per channel."""

CONTRAST = (0.1, 0.25)
"""Range of how much brighter than the ground a digit is, per channel: low, as in photographs. On black and
white digits no attack with 8/255 had an effect; a guess: no noise is easier to learn than the digit."""

GRAIN = 0.03
"""Standard deviation of the canvas's sensor noise."""

CANVAS_BYTES = 17 * 3 * SIDE**2
"""Largest memory that drawing takes for each canvas of a split, as measured."""

NAMES = tuple("0123456789")

TABLE = "sklearn/datasets/data/digits.csv.gz"
"""File of the digits in scikit-learn."""


@dataclass(frozen=True)
class Digits:
    """Two real handwritten digits on a 32×32 color canvas; needs no data root.

    The 8×8 digits of the UCI set are enlarged to 16 px. Each half of a canvas has one at a random height, in
    a color a little brighter than the ground, and the canvas has sensor noise. Tasks: *left* and *right*
    (which digit), *larger* (is the right digit larger than the left?) and *sum-odd* (is the sum odd?); the
    last two need both digits. No source digit is in both splits.

    Source: Alpaydin & Kaynak, UCI "Optical Recognition of Handwritten Digits", 1998; two digits on one
    canvas as in MultiMNIST, Sabour et al., NeurIPS 2017, arXiv:1710.09829

    Departs from MultiMNIST: the digits do not overlap, are in faint colors, and two tasks need both.

    Attributes:
        train: training canvases.
        test: test canvases.
        data_seed: seed of the split of the sources and of the canvases.
    """

    train: Annotated[int, Ge(1)] = 4000
    test: Annotated[int, Ge(1)] = 1000
    data_seed: Annotated[int, Ge(0)] = 0
    version: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe()
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    quick_params: ClassVar[dict[str, object]] = {"train": 60, "test": 20}

    def missing(self, root: Path | None) -> None:
        """Return None: nothing is needed."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Draw the canvases; ``root`` and ``cache`` are not used.

        Raises:
            BenchError: if they do not fit in memory.
        """
        count = max(self.train, self.test)
        require_memory(f"dataset 'digits' with {count:,} canvases", count * CANVAS_BYTES)
        glyphs, labels = read_glyphs()
        images = torch.from_numpy(glyphs.reshape(-1, 1, 8, 8) / 16).float()
        images = functional.interpolate(images, size=(GLYPH, GLYPH), mode="bilinear")[:, 0]
        rng = np.random.default_rng(self.data_seed)
        order = rng.permutation(len(labels))
        held_out = len(labels) // 5
        pools = {"test": order[:held_out], "train": order[held_out:]}
        splits = {
            name: _draw_canvases(rng, images, labels, pools[name], count)
            for name, count in (("train", self.train), ("test", self.test))
        }
        tasks = (
            Classification("left", NAMES),
            Classification("right", NAMES),
            Classification("larger", ("left or equal", "right")),
            Classification("sum-odd", ("even", "odd")),
        )
        # A flip would swap left and right; a crop would cut a digit.
        return MultiTaskData(tasks, splits["train"], splits["test"], Augmentation())


def read_glyphs() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's digits [n 64] in values up to 16, and their labels [n].

    The file is read directly if possible, because the import takes longer than the rest of a plan.
    """
    file = Path(str(distribution("scikit-learn").locate_file(TABLE)))
    if not file.exists():
        from sklearn.datasets import load_digits

        glyphs, labels = load_digits(return_X_y=True)
        return glyphs, labels
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def _draw_canvases(
    rng: np.random.Generator, glyphs: Tensor, labels: NDArray[np.int64], pool: NDArray[np.int64], count: int
) -> Split:
    """Draw ``count`` canvases from the digits of a pool."""
    left, right = rng.choice(pool, (2, count))
    ground = torch.from_numpy(rng.uniform(*GROUND, (count, 3, 1, 1))).float()
    canvas = ground.repeat(1, 1, SIDE, SIDE)
    for start, source in ((0, left), (SIDE // 2, right)):
        ink = torch.from_numpy(rng.uniform(*CONTRAST, (count, 3, 1, 1))).float()
        glyph = _place_at_random_height(rng, glyphs[source])
        canvas[:, :, :, start : start + GLYPH] += glyph[:, None] * ink
    canvas += GRAIN * torch.from_numpy(rng.standard_normal(canvas.shape)).float()
    y = torch.from_numpy(labels)
    left_label, right_label = y[left], y[right]
    return Split(
        (canvas.clamp(0, 1) * 255).round().to(torch.uint8),
        {
            "left": left_label,
            "right": right_label,
            "larger": (right_label > left_label).long(),
            "sum-odd": (left_label + right_label) % 2,
        },
    )


def _place_at_random_height(rng: np.random.Generator, glyphs: Tensor) -> Tensor:
    """Place glyphs [n 16 16] at random heights of a half canvas [n 32 16]."""
    top = torch.from_numpy(rng.integers(0, SIDE - GLYPH + 1, len(glyphs)))
    rows = top[:, None] + torch.arange(GLYPH)
    half = torch.zeros(len(glyphs), SIDE, GLYPH)
    return half.scatter_(1, rows[:, :, None].expand(-1, -1, GLYPH), glyphs)
