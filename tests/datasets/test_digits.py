"""The embedded digits: the same everywhere, labeled as they show, and split without leaks."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from bench.catalog.build import build_part
from bench.datasets import digits
from bench.errors import BenchError
from bench.values import Split


def content(split: Split) -> str:
    """A hash of a split's images and labels."""
    pieces = [split.images, *(split.targets[task] for task in sorted(split.targets))]
    return hashlib.sha256(b"".join(piece.contiguous().numpy().tobytes() for piece in pieces)).hexdigest()[:16]


def test_digits_are_the_same_on_every_machine(tmp_path: Path) -> None:
    data = build_part("dataset", "digits(train=60, test=20)").load(None, tmp_path)
    assert (content(data.train), content(data.test)) == ("747c5ab8b28bb996", "f2aa8ac636340aa6")


def test_digits_of_another_data_seed_are_others(tmp_path: Path) -> None:
    first, second = (
        build_part("dataset", f"digits(train=60, test=20, data_seed={seed})").load(None, tmp_path)
        for seed in (0, 1)
    )
    assert content(first.train) != content(second.train)
    assert content(first.test) != content(second.test)


def test_labels_of_digits_agree_with_each_other(tmp_path: Path) -> None:
    data = build_part("dataset", "digits(train=500, test=200)").load(None, tmp_path)
    assert [task.name for task in data.tasks] == ["left", "right", "larger", "sum-odd"]
    for split in (data.train, data.test):
        rows = [split.targets[task].tolist() for task in ("left", "right", "larger", "sum-odd")]
        for left, right, larger, odd in zip(*rows, strict=True):
            assert larger == (1 if right > left else 0)
            assert odd == (1 if (left + right) % 2 else 0)
        assert set(rows[0]) == set(rows[1]) == set(range(10))


@pytest.mark.parametrize("place", [digits.TABLE, "somewhere/else"])
def test_the_source_digits_are_those_of_scikit_learn(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: asked.append(0) or load_digits(**_))
    monkeypatch.setattr(digits, "TABLE", place)
    found = digits.read_glyphs()
    assert bool(asked) == (place != "sklearn/datasets/data/digits.csv.gz")
    for mine, theirs in zip(found, load_digits(return_X_y=True), strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


def numbered(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    """Give every source digit its own number as its label, and return the digits [n 8 8]."""
    glyphs, labels = load_digits(return_X_y=True)
    numbers = np.arange(len(labels))
    monkeypatch.setattr(digits, "read_glyphs", lambda: (glyphs, numbers))
    return glyphs.reshape(-1, 8, 8)  # type: ignore[no-any-return]


@pytest.mark.parametrize("data_seed", [0, 1, 2])
def test_no_source_digit_is_in_both_splits(
    data_seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    glyphs = numbered(monkeypatch)
    dataset = build_part("dataset", f"digits(train=3000, test=3000, data_seed={data_seed})")
    data = dataset.load(None, tmp_path)
    used = [
        set(split.targets["left"].tolist()) | set(split.targets["right"].tolist())
        for split in (data.train, data.test)
    ]
    assert not used[0] & used[1]
    assert len(used[0]) + len(used[1]) > 0.9 * len(glyphs)


def test_every_canvas_shows_the_digits_it_is_labeled_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    glyphs = torch.from_numpy(numbered(monkeypatch)).float()[:, None]
    monkeypatch.setattr(digits, "GRAIN", 0.0)
    data = build_part("dataset", "digits(train=20, test=20)").load(None, tmp_path)
    for split in (data.train, data.test):
        for row, image in enumerate(split.images.float()):
            for task, half in (("left", image[:, :, :16]), ("right", image[:, :, 16:])):
                shown = functional.interpolate(
                    glyphs[split.targets[task][row]][None], scale_factor=2, mode="bilinear"
                )[0, 0]
                assert best_correlation(half.mean(0), shown) > 0.98


def best_correlation(half: Tensor, glyph: Tensor) -> float:
    """The largest correlation of a digit with its half of the canvas, over the heights it may stand at."""
    canvases = torch.zeros(17, 32, 16)
    for top, canvas in enumerate(canvases):
        canvas[top : top + 16] = glyph
    pairs = [torch.stack([half.flatten(), canvas.flatten()]) for canvas in canvases]
    return max(float(torch.corrcoef(pair)[0, 1]) for pair in pairs)


@pytest.mark.parametrize(
    "text",
    [
        *("digits(train=99999999999)", "digits(test=99999999999)", "scenes(train=99999999999)"),
        "scenes(train=2, height=9999999, width=9999999)",
    ],
)
def test_what_does_not_fit_in_memory_is_refused_before_it_is_drawn(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        BenchError, match=r"dataset '(digits|scenes)' with [\d,]+ .* needs .*TB of memory, but only"
    ):
        build_part("dataset", text).load(None, tmp_path)
