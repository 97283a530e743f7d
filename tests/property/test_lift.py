"""Cells cut an image exactly; lifted patterns keep to the budget their drawing keeps to."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.lift import ClasswiseNoise, Lift, cells, lift
from bench.api import MISSING, Batch
from bench.tasks import Classification

EPSILON = 8 / 255
SIDES = st.integers(8, 33)
CLASSES = st.lists(st.integers(2, 5), min_size=1, max_size=12)
MODES: st.SearchStrategy[Lift] = st.sampled_from(["patch", "average"])


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 64), height=st.integers(8, 70), width=st.integers(8, 70))
def test_cells_use_every_pixel_once(count: int, height: int, width: int) -> None:
    cut = cells(count, height, width)
    used = torch.zeros(height, width, dtype=torch.int64)
    for cell in cut:
        assert cell.height > 0
        assert cell.width > 0
        assert 0 <= cell.top <= height - cell.height
        assert 0 <= cell.left <= width - cell.width
        used[cell.top : cell.top + cell.height, cell.left : cell.left + cell.width] += 1
    assert len(cut) == count
    assert used.unique().tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 64), side=st.integers(64, 140))
def test_cells_are_of_similar_size(count: int, side: int) -> None:
    areas = [cell.height * cell.width for cell in cells(count, side, side)]
    assert max(areas) <= 2.5 * min(areas)


def lifted(
    classes: Sequence[int], mode: Lift, height: int, width: int
) -> tuple[ClasswiseNoise, list[Tensor]]:
    """Noise of patterns in [−ε, ε], and the patterns as they were drawn."""
    tasks = [Classification(f"task {i}", tuple(map(str, range(k)))) for i, k in enumerate(classes)]
    drawn: list[Tensor] = []

    def draw(count: int, rows: int, columns: int) -> Tensor:
        drawn.append((torch.rand(count, 3, rows, columns) * 2 - 1) * EPSILON)
        return drawn[-1]

    return lift(tasks, mode, height, width, draw), drawn


def random_batch(classes: Sequence[int], height: int, width: int, missing: float = 0.0) -> Batch:
    """Six images with a label of every task, or none."""
    targets = {
        f"task {i}": torch.randint(0, k, (6,)).masked_fill(torch.rand(6) < missing, MISSING)
        for i, k in enumerate(classes)
    }
    return Batch(torch.rand(6, 3, height, width), targets, torch.arange(6))


@settings(max_examples=60, deadline=None)
@given(classes=CLASSES, mode=MODES, height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_lifted_noise_keeps_the_budget_and_depends_on_the_labels_only(
    classes: list[int], mode: Lift, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    noise, _ = lifted(classes, mode, height, width)
    batch = random_batch(classes, height, width, missing=0.2)
    delta = noise.delta(batch)
    assert delta.shape == batch.images.shape
    assert delta.abs().max() <= EPSILON * (1 + 1e-6)
    others = Batch(torch.rand_like(batch.images), batch.targets, batch.index + 100)
    assert torch.equal(noise.delta(others), delta)


@settings(max_examples=60, deadline=None)
@given(classes=CLASSES, height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_patch_puts_every_tasks_pattern_into_its_cell(
    classes: list[int], height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    noise, drawn = lifted(classes, "patch", height, width)
    batch = random_batch(classes, height, width)
    delta = noise.delta(batch)
    for i, (cell, patterns) in enumerate(zip(cells(len(classes), height, width), drawn, strict=True)):
        shown = delta[:, :, cell.top : cell.top + cell.height, cell.left : cell.left + cell.width]
        assert torch.equal(shown, patterns[batch.targets[f"task {i}"]])


@settings(max_examples=60, deadline=None)
@given(classes=CLASSES, height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_average_is_the_mean_of_the_tasks_patterns(
    classes: list[int], height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    noise, drawn = lifted(classes, "average", height, width)
    batch = random_batch(classes, height, width)
    patterns = [drawn[i][batch.targets[f"task {i}"]] for i in range(len(classes))]
    assert torch.allclose(noise.delta(batch), torch.stack(patterns).mean(0), atol=1e-7)


@pytest.mark.parametrize("mode", ["patch", "average"])
def test_without_labels_there_is_no_noise(mode: Lift) -> None:
    noise, _ = lifted([2, 3], mode, 9, 9)
    assert not noise.delta(random_batch([2, 3], 9, 9, missing=1.1)).any()
