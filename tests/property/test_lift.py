"""Cells cut an image exactly; lifted patterns keep to the budget their drawing keeps to."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.crafting.lift import (
    ClasswiseNoise,
    ImageCell,
    Lift,
    assign_cells,
    equal_cells,
    lift_classwise,
    lift_samplewise,
    official_cells,
)
from bench.api import CraftContext
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import MISSING, Augmentation, Batch, Split

EPSILON = 8 / 255
CPU = torch.device("cpu")
SIDES = st.integers(8, 33)
CLASSES = st.lists(st.integers(2, 5), min_size=1, max_size=12)
MODES: st.SearchStrategy[Lift] = st.sampled_from(["patch", "average", "patch-official"])


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 64), height=st.integers(8, 70), width=st.integers(8, 70))
def test_cells_use_every_pixel_once(count: int, height: int, width: int) -> None:
    cut = equal_cells(count, height, width)
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
    areas = [cell.height * cell.width for cell in equal_cells(count, side, side)]
    assert max(areas) <= 2.5 * min(areas)


def tasks_of(classes: Sequence[int]) -> list[Classification]:
    return [Classification(f"task {i}", tuple(map(str, range(k)))) for i, k in enumerate(classes)]


def training_set(classes: Sequence[int], height: int, width: int, without: Sequence[int] = ()) -> Split:
    """Six images with a label of every task; those of the tasks ``without`` are all missing."""
    targets = {
        f"task {i}": torch.full((6,), MISSING) if i in without else torch.randint(0, k, (6,))
        for i, k in enumerate(classes)
    }
    return Split(torch.randint(0, 256, (6, 3, height, width), dtype=torch.uint8), targets)


def lifted(
    classes: Sequence[int], mode: Lift, height: int, width: int, without: Sequence[int] = ()
) -> tuple[ClasswiseNoise, list[Tensor]]:
    """Noise of patterns in [−ε, ε], and the patterns as they were drawn."""
    drawn: list[Tensor] = []

    def draw(count: int, rows: int, columns: int) -> Tensor:
        drawn.append((torch.rand(count, 3, rows, columns) * 2 - 1) * EPSILON)
        return drawn[-1]

    train = training_set(classes, height, width, without)
    return lift_classwise(tasks_of(classes), mode, train, draw), drawn


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
    for i, (cell, patterns) in enumerate(zip(equal_cells(len(classes), height, width), drawn, strict=True)):
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


@pytest.mark.parametrize("mode", ["patch", "average", "patch-official"])
def test_without_labels_there_is_no_noise(mode: Lift) -> None:
    noise, _ = lifted([2, 3], mode, 9, 9)
    assert not noise.delta(random_batch([2, 3], 9, 9, missing=1.1)).any()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 64), height=st.integers(8, 70), width=st.integers(8, 70))
def test_official_cells_stand_in_a_grid_of_a_power_of_two(count: int, height: int, width: int) -> None:
    cut = official_cells(count, height, width)
    side = cut[0].stride
    assert side in (1, 2, 4, 8)
    assert (side // 2) ** 2 < count <= side**2
    assert {(cell.height, cell.width, cell.stride) for cell in cut} == {(height // side, width // side, side)}
    corner = cut[0]
    for number, cell in enumerate(cut):
        assert cell.top == corner.top + number // side * (height // side)
        assert cell.left == corner.left + number % side * (width // side)
    assert corner.top == (height % side) // 2
    assert corner.left == (width % side) // 2


def slow_patch_official(drawn: Sequence[Tensor], labels: Sequence[int], height: int, width: int) -> Tensor:
    """The public code's layout for one image, value by value."""
    count = len(drawn)
    cells_a_side = 1
    while cells_a_side * cells_a_side < count:
        cells_a_side *= 2
    tall, wide = height // cells_a_side, width // cells_a_side
    grid = torch.zeros(3, tall * cells_a_side, wide * cells_a_side)
    for k in range(count):
        whole = drawn[k][labels[k]]
        assert whole.shape == grid.shape
        for i in range(tall):
            for j in range(wide):
                row, column = k // cells_a_side * tall + i, k % cells_a_side * wide + j
                grid[:, row, column] = whole[:, i * cells_a_side, j * cells_a_side]
    padded = torch.zeros(3, height, width)
    top, left = (height - grid.shape[1]) // 2, (width - grid.shape[2]) // 2
    padded[:, top : top + grid.shape[1], left : left + grid.shape[2]] = grid
    return padded


@pytest.mark.parametrize("classes", [(4,), (2, 5, 3), (2, 3, 2, 4, 2)], ids=len)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (11, 18)])
def test_patch_official_is_the_layout_of_the_public_code(
    classes: tuple[int, ...], height: int, width: int
) -> None:
    torch.manual_seed(0)
    noise, drawn = lifted(classes, "patch-official", height, width)
    batch = random_batch(classes, height, width)
    delta = noise.delta(batch)
    for image in range(6):
        labels = [int(batch.targets[f"task {i}"][image]) for i in range(len(classes))]
        assert torch.equal(delta[image], slow_patch_official(drawn, labels, height, width))


def test_the_public_layout_leaves_24_of_64_cells_of_40_tasks_empty() -> None:
    torch.manual_seed(0)
    noise, _ = lifted([2] * 40, "patch-official", 64, 64)
    shown = noise.delta(random_batch([2] * 40, 64, 64)).ne(0).any(1).float().mean()
    assert float(shown) == pytest.approx(40 / 64, abs=1e-3)


@pytest.mark.parametrize("mode", ["patch", "average", "patch-official"])
def test_tasks_without_any_label_get_no_room(mode: Lift) -> None:
    torch.manual_seed(0)
    noise, _ = lifted([2, 3, 4], mode, 12, 12, without=(1,))
    alone, _ = lifted([2, 4], mode, 12, 12)
    assert tuple(task.name for task in noise.tasks) == ("task 0", "task 2")
    assert noise.cells == alone.cells
    assert noise.scale == alone.scale
    assert [len(patterns) for patterns in noise.patterns] == [3, 5]


@pytest.mark.parametrize("mode", ["patch", "average", "patch-official"])
def test_a_training_set_without_labels_gives_no_noise(mode: Lift) -> None:
    noise, drawn = lifted([2, 3], mode, 9, 9, without=(0, 1))
    assert noise.tasks == ()
    assert drawn == []
    assert not noise.delta(random_batch([2, 3], 9, 9)).any()


@pytest.mark.parametrize("mode", ["patch", "patch-official"])
def test_an_image_too_small_for_its_tasks_is_refused(mode: Lift) -> None:
    with pytest.raises(BenchError, match=r"images of 4×4 .* 40 tasks.*average"):
        lifted([2] * 40, mode, 4, 4)
    noise, _ = lifted([2] * 40, "average", 4, 4)
    assert len(noise.tasks) == 40


@pytest.mark.parametrize("mode", ["patch", "average", "patch-official"])
def test_signals_of_samples_lie_where_patterns_of_classes_lie(mode: Lift) -> None:
    """A signal that depends on the label alone makes class-wise noise."""
    torch.manual_seed(0)
    classes = [2, 5, 3]
    train = training_set(classes, 13, 11)
    train.targets["task 1"][2:4] = MISSING
    layout = assign_cells(tasks_of(classes), mode, train)
    patterns = {
        cell: torch.rand(task.classes, 3, *cell.signal_size)
        for task, cell in zip(layout.tasks, layout.cells, strict=True)
    }
    if mode == "average":  # one cell for all: one set of patterns, long enough for every task
        patterns = {layout.cells[0]: torch.rand(5, 3, 13, 11)}
    steps: list[tuple[str, int, int]] = []
    context = CraftContext(
        (), Augmentation(), EPSILON, lambda: None, lambda n: [], CPU, lambda *step: steps.append(step)
    )

    def signal_at(cell: ImageCell) -> Any:
        def signal(rows: Tensor, labels: Tensor) -> Tensor:
            assert (labels != MISSING).all()
            return patterns[cell][labels]

        return signal

    rows = lift_samplewise(train, layout, [signal_at(cell) for cell in layout.cells], context)
    draws = iter(layout.cells)

    def draw(count: int, height: int, width: int) -> Tensor:
        return patterns[next(draws)][:count]

    noise = lift_classwise(tasks_of(classes), mode, train, draw)
    batch = Batch(train.images.float() / 255, train.targets, torch.arange(6))
    assert torch.allclose(rows.delta(batch), noise.delta(batch), atol=1e-3)
    assert steps[0] == ("image", 0, 6)
    assert steps[-1] == ("image", 6, 6)
