"""Losses, metrics and floors of dense tasks against scikit-learn, NumPy and plain formulas."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, log_loss
from torch import Tensor

from bench.api import Scorer, Task
from bench.tasks import maps
from bench.tasks.depth import BINS, Depth
from bench.tasks.normals import SECTORS, Normals
from bench.tasks.segmentation import Segmentation
from bench.values import MISSING

SEGMENTATION = Segmentation("segmentation", ("a", "b", "c", "d", "e"))
DEPTH = Depth("depth", 0.0, 10.0)
NORMALS = Normals("normals")
TASKS: tuple[Task, ...] = (SEGMENTATION, DEPTH, NORMALS)
SHAPE = (6, 5, 7)
WITHIN = {11.25: "within_11_25", 22.5: "within_22_5", 30.0: "within_30"}

each = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)


def draw(task: Task, seed: int = 0, missing: float = 0.3, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Outputs [b o h w] that know something of a target, and the target."""
    rng = torch.Generator().manual_seed(seed)
    noise = spread * torch.randn(SHAPE[0], task.outputs, *SHAPE[1:], generator=rng)
    hidden = torch.rand(SHAPE, generator=rng) < missing
    if task is SEGMENTATION:
        labels = torch.randint(0, task.classes, SHAPE, generator=rng)
        known = torch.nn.functional.one_hot(labels, task.classes).movedim(3, 1)
        return noise + known, labels.masked_fill(hidden, MISSING)
    if task is DEPTH:
        meters = 0.5 + 9 * torch.rand(SHAPE, generator=rng)[:, None]
        return meters + noise, meters.masked_fill(hidden[:, None], math.nan)
    directions = torch.nn.functional.normalize(
        torch.randn(SHAPE[0], 3, *SHAPE[1:], generator=rng) - torch.tensor([0.0, 0.0, 2.0])[:, None, None],
        dim=1,
    )
    return directions + 0.4 * noise, directions.masked_fill(hidden[:, None], math.nan)


def labeled(task: Task, outputs: Tensor, target: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outputs [p o] and labels [p] or [p o] of the labeled pixels, in double precision."""
    rows = outputs.movedim(1, 3).reshape(-1, task.outputs).double().numpy()
    if task is SEGMENTATION:
        labels = target.flatten().numpy()
        return rows[labels != MISSING], labels[labels != MISSING]
    truth = target.movedim(1, 3).reshape(-1, task.outputs).double().numpy()
    known = ~np.isnan(truth).any(1)
    return rows[known], truth[known]


def reference(task: Task, outputs: Tensor, target: Tensor) -> dict[str, float]:
    """What the scorer should say, from other libraries."""
    rows, truth = labeled(task, outputs, target)
    if task is SEGMENTATION:
        chances = np.exp(rows - rows.max(1, keepdims=True))
        guess = rows.argmax(1)
        return {
            "loss": log_loss(truth, chances / chances.sum(1, keepdims=True), labels=range(task.classes)),
            "miou": jaccard_score(truth, guess, labels=np.unique(truth), average="macro"),
            "pixel_accuracy": accuracy_score(truth, guess),
        }
    if task is DEPTH:
        errors = np.abs(rows - truth)
        return {
            "loss": errors.mean(),
            "absolute_error": errors.mean(),
            "relative_error": (errors / truth).mean(),
        }
    angles = angles_between(rows, truth)
    return {
        "loss": (1 - np.cos(np.radians(angles))).mean(),
        "mean_angle": angles.mean(),
        "median_angle": float(np.quantile(angles, 0.5, method="inverted_cdf")),
        **{name: (angles < limit).mean() for limit, name in WITHIN.items()},
    }


def angles_between(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees between rows, by way of the tangent, which is exact for small angles too."""
    degrees: NDArray[np.float64] = np.degrees(
        np.arctan2(np.linalg.norm(np.cross(one, other), axis=1), (one * other).sum(1))
    )
    return degrees


def scored(task: Task, *batches: tuple[Tensor, Tensor]) -> dict[str, float | None]:
    scorer: Scorer = task.scorer()
    for outputs, target in batches:
        scorer.update(outputs, target)
    return scorer.compute()


def close(wanted: dict[str, float]) -> object:
    """Equal, the median angle to the width of its histogram's bins."""
    return pytest.approx(wanted, rel=1e-5, abs=0.02 if "median_angle" in wanted else 1e-7)


# Metrics


@each
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_are_those_of_a_second_implementation(task: Task, missing: float, seed: int) -> None:
    outputs, target = draw(task, seed, missing)
    assert scored(task, (outputs, target)) == close(reference(task, outputs, target))


@each
def test_in_batches_metrics_are_what_they_are_at_once(task: Task) -> None:
    outputs, target = draw(task, 2)
    batches = list(zip(outputs.split((1, 3, 2)), target.split((1, 3, 2)), strict=True))
    assert scored(task, *batches) == pytest.approx(scored(task, (outputs, target)), rel=1e-5)


@each
def test_a_batch_without_labels_changes_nothing(task: Task) -> None:
    outputs, target = draw(task, 3)
    empty = (outputs, task.without_labels(target))
    alone = scored(task, (outputs, target))
    assert scored(task, empty, (outputs, target), empty) == pytest.approx(alone, rel=1e-6)


@each
def test_outputs_where_there_is_no_label_do_not_matter(task: Task) -> None:
    outputs, target = draw(task, 4)
    hidden = (target == MISSING)[:, None] if task is SEGMENTATION else target[:, :1].isnan()
    others = torch.where(hidden, 50 * torch.randn_like(outputs), outputs)
    assert scored(task, (others, target)) == scored(task, (outputs, target))
    assert float(task.loss(others, target)) == float(task.loss(outputs, target))
    assert torch.equal(task.share_wrong(others, target), task.share_wrong(outputs, target))


@each
def test_metrics_are_undefined_without_labels(task: Task) -> None:
    outputs, target = draw(task, 5)
    names = dict.fromkeys(reference(task, outputs, target))
    assert scored(task, (outputs, task.without_labels(target))) == names
    assert scored(task) == names


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_metrics_are_undefined_where_a_network_has_come_apart(task: Task, bad: float) -> None:
    outputs, target = draw(task, 6)
    broken = outputs.clone()
    broken[2, 0, 1, 1] = bad
    names = dict.fromkeys(reference(task, outputs, target))
    assert scored(task, (outputs, target), (broken, target), (outputs, target)) == names


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_a_class_that_does_not_occur_is_left_out_of_the_mean_overlap(absent: int) -> None:
    outputs, target = draw(SEGMENTATION, 7)
    target = target.masked_fill(target == absent, MISSING)
    rows, truth = labeled(SEGMENTATION, outputs, target)
    counts = confusion_matrix(truth, rows.argmax(1), labels=range(5))
    assert counts[:, absent].sum() > 0
    overlap = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    here = np.arange(5) != absent
    assert scored(SEGMENTATION, (outputs, target))["miou"] == pytest.approx(overlap[here].mean())


def test_small_angles_are_told_apart() -> None:
    turn = torch.linspace(0, math.radians(2), 64).reshape(1, 8, 8)
    outputs = torch.stack([turn.sin(), torch.zeros_like(turn), -turn.cos()], 1)
    target = torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    measured = scored(NORMALS, (outputs, target))
    assert measured["mean_angle"] == pytest.approx(1.0, abs=0.02)
    assert measured["median_angle"] == pytest.approx(1.0, abs=0.03)


def test_the_length_of_an_output_does_not_change_its_direction() -> None:
    outputs, target = draw(NORMALS, 8)
    wanted = scored(NORMALS, (outputs, target))
    assert scored(NORMALS, (outputs * 37.0, target)) == pytest.approx(wanted, rel=1e-4)
    assert float(NORMALS.loss(outputs * 37.0, target)) == pytest.approx(wanted["loss"], rel=1e-4)


# Losses


@each
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_the_loss_is_the_mean_over_all_labeled_pixels(task: Task, missing: float) -> None:
    outputs, target = draw(task, 9, missing)
    assert float(task.loss(outputs, target)) == pytest.approx(
        reference(task, outputs, target)["loss"], rel=1e-5
    )


@each
def test_without_labels_the_loss_is_0_and_so_are_its_gradients(task: Task) -> None:
    outputs, target = draw(task, 10)
    outputs.requires_grad_(True)
    loss = task.loss(outputs, task.without_labels(target))
    loss.backward()
    assert loss.item() == 0.0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros_like(outputs))


@each
def test_gradients_are_finite_and_0_where_there_is_no_label(task: Task) -> None:
    outputs, target = draw(task, 11)
    outputs.requires_grad_(True)
    task.loss(outputs, target).backward()
    hidden = target == MISSING if task is SEGMENTATION else target[:, 0].isnan()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert torch.equal(outputs.grad.movedim(1, 3)[hidden], torch.zeros(int(hidden.sum()), task.outputs))
    assert (outputs.grad.movedim(1, 3)[~hidden] != 0).any(1).all()


# What is wrong, and other targets


@each
def test_wrong_is_the_share_of_labeled_pixels_that_are_off(task: Task) -> None:
    outputs, target = draw(task, 12)
    target[1] = task.without_labels(target)[1]
    measured = task.share_wrong(outputs, target)
    for sample in range(len(outputs)):
        rows, truth = labeled(task, outputs[sample, None], target[sample, None])
        if task is SEGMENTATION:
            off = rows.argmax(1) != truth
        elif task is DEPTH:
            off = ~(np.maximum(rows / truth, truth / rows) < 1.25).all(1) | (rows <= 0).all(1)
        else:
            off = angles_between(rows, truth) >= 30
        assert float(measured[sample]) == pytest.approx(off.mean() if len(off) else 0.0)
    assert task.labeled(target).tolist() == [sample != 1 for sample in range(len(outputs))]


@each
def test_an_output_that_is_no_number_is_wrong(task: Task) -> None:
    outputs, target = draw(task, 13, missing=0.0)
    wrong = task.share_wrong(torch.full_like(outputs, math.nan), target)
    assert (wrong == 1).all() or task is SEGMENTATION


@each
def test_a_shifted_target_is_wrong_everywhere_and_missing_where_it_was(task: Task) -> None:
    _, target = draw(task, 14)
    shifted = task.shifted(target)
    assert torch.equal(task.without_labels(target) == target, task.without_labels(shifted) == shifted)
    assert torch.equal(shifted.isnan(), target.isnan())
    if task is SEGMENTATION:
        assert torch.equal(shifted[target != MISSING], (target[target != MISSING] + 2) % 5)
    elif task is DEPTH:
        known = ~target.isnan()
        assert (shifted[known] - target[known]).abs().numpy() == pytest.approx(5.0, abs=1e-5)
        assert shifted[known].min() >= 0
        assert shifted[known].max() <= 10
        # Intervals of distance are shifted as classes are, by half of them.
        assert torch.equal(
            task.class_labels(shifted)[known[:, 0]],
            (task.class_labels(target)[known[:, 0]] + BINS // 2) % BINS,
        )
    else:
        assert torch.equal(shifted.nan_to_num(), -target.nan_to_num())


def test_depths_are_sorted_into_equal_intervals() -> None:
    task = Depth("depth", 2.0, 10.0)
    meters = torch.tensor([2.0, 2.9, 3.1, 6.0, 9.99, 10.0, 12.0, 0.5, math.nan]).reshape(1, 1, 1, -1)
    assert task.classes == 8
    assert task.class_labels(meters).tolist() == [[[0, 0, 1, 4, 7, 7, 7, 0, MISSING]]]


def test_normals_are_sorted_by_the_direction_they_lean_to() -> None:
    angles = torch.arange(SECTORS) * 2 * math.pi / SECTORS + 0.1
    leaning = torch.stack([angles.cos(), angles.sin(), torch.full_like(angles, -0.5)])
    facing = torch.tensor([[0.0, 0.2], [0.0, -0.2], [-1.0, -1.0]])
    nothing = torch.full((3, 1), math.nan)
    target = torch.nn.functional.normalize(torch.cat([leaning, facing, nothing], 1), dim=0)[None, :, None]
    assert NORMALS.classes == SECTORS + 1
    assert NORMALS.class_labels(target).tolist() == [[[*range(SECTORS), SECTORS, SECTORS, MISSING]]]


@each
def test_classes_are_in_range_and_missing_where_the_target_is(task: Task) -> None:
    _, target = draw(task, 15)
    classes = task.class_labels(target)
    assert classes.shape == SHAPE
    assert classes.dtype == torch.int64
    missing = target == MISSING if task is SEGMENTATION else target[:, 0].isnan()
    assert torch.equal(classes == MISSING, missing)
    assert classes[~missing].min() >= 0
    assert classes.max() < task.classes


@each
def test_what_is_seen_mirrored_is_as_wrong_as_before(task: Task) -> None:
    outputs, target = draw(task, 16)
    twice = task.mirrored(task.mirrored(target))
    assert torch.equal(twice.nan_to_num(), target.nan_to_num())
    seen = task.mirrored(outputs) if task is NORMALS else outputs
    assert scored(task, (seen, task.mirrored(target))) == scored(task, (outputs, target))
    if task is NORMALS:
        assert torch.equal(
            task.mirrored(target).nan_to_num(),
            (target * torch.tensor([-1.0, 1, 1])[:, None, None]).nan_to_num(),
        )


# Floors


def best_guess(task: Task, train: Tensor) -> Tensor:
    """The one output [o] that knows only the training set's labels."""
    _, truth = labeled(task, torch.zeros(len(train), task.outputs, *train.shape[-2:]), train)
    if task is SEGMENTATION:
        return torch.nn.functional.one_hot(torch.tensor(np.bincount(truth).argmax()), task.classes).float()
    if task is DEPTH:
        return torch.tensor([np.median(truth)]).float()
    return torch.tensor(truth.sum(0)).float()


@each
@pytest.mark.parametrize("chunk", [1, 200, maps.VALUES_PER_CHUNK])
def test_the_floor_is_what_the_best_constant_scores(
    task: Task, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "VALUES_PER_CHUNK", chunk)
    (_, train), (_, test) = draw(task, 17), draw(task, 18)
    test[2] = task.without_labels(test)[2]
    guess = best_guess(task, train)[None, :, None, None].expand(len(test), -1, *SHAPE[1:])
    wanted = scored(task, (guess, test))
    info = task.describe(train, test)
    floor = info["floor"]
    assert isinstance(floor, dict)
    # The training set's median is known to a thousandth of the range.
    assert floor == pytest.approx({name: wanted[name] for name in floor}, rel=1e-3, abs=1e-3)
    assert set(floor) == set(wanted) - {"loss"}
    assert info["headline"] == info["scored"]
    assert info["headline"] in floor
    assert info["test"] == len(test) - 1
    assert info["kind"] == task.kind


@each
def test_what_is_perfect_is_what_the_truth_scores(task: Task) -> None:
    _, target = draw(task, 19)
    _, train = draw(task, 20)
    outputs = (
        50 * torch.nn.functional.one_hot(target.clamp(min=0), task.classes).movedim(3, 1).float()
        if task is SEGMENTATION
        else target.nan_to_num(1.0)
    )
    measured = scored(task, (outputs, target))
    perfect = task.describe(train, target)["perfect"]
    assert isinstance(perfect, dict)
    assert {name: measured[name] for name in perfect} == pytest.approx(perfect, abs=0.03)


@each
def test_floors_are_those_of_maps_as_they_are_stored(task: Task) -> None:
    (_, train), (_, test) = draw(task, 21), draw(task, 22)
    kind = torch.int8 if task is SEGMENTATION else torch.float16
    wanted, stored = task.describe(train, test), task.describe(train.to(kind), test.to(kind))
    assert stored["floor"] == pytest.approx(wanted["floor"], rel=2e-3, abs=2e-2)


@each
def test_floors_without_any_label_are_numbers(task: Task) -> None:
    _, target = draw(task, 23)
    info = task.describe(task.without_labels(target), task.without_labels(target))
    assert info["test"] == 0
    assert isinstance(info["floor"], dict)
    assert all(math.isfinite(value) for value in info["floor"].values())


def test_the_floor_counts_every_class_that_occurs_in_the_test_set() -> None:
    train = torch.tensor([[[0, 0, 0, 1, 2, MISSING]]])
    test = torch.tensor([[[0, 0, 1, 3, MISSING, MISSING]]])
    assert SEGMENTATION.describe(train, test)["floor"] == pytest.approx(
        {"miou": 0.5 / 3, "pixel_accuracy": 0.5}
    )


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
