"""Losses and metrics of classification tasks against scikit-learn and against plain formulas."""

import math
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score
from torch import Tensor
from torch.nn import functional

from bench.tasks.classification import Classification
from bench.values import MISSING

METRICS = {"loss", "accuracy", "balanced_accuracy", "auroc"}


def task_of(classes: int) -> Classification:
    return Classification("task", tuple(f"class {c}" for c in range(classes)))


def draw(
    classes: int, count: int, seed: int, scale: float = 2.0, missing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Outputs [n o] that know a little of the labels [n]."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (count,), generator=generator)
    outputs = torch.randn(count, task_of(classes).outputs, generator=generator)
    known = target[:, None] * 2.0 - 1 if classes == 2 else functional.one_hot(target, classes)
    without = torch.rand(count, generator=generator) < missing
    return (outputs + 0.7 * known) * scale, target.masked_fill(without, MISSING)


def probabilities(outputs: Tensor) -> NDArray[np.float64]:
    """What the outputs say of the classes: [n] of the second of two, else [n k]."""
    exact = outputs.double()
    return (exact[:, 0].sigmoid() if outputs.shape[1] == 1 else exact.softmax(1)).numpy()


def area(truth: NDArray[np.int64], chances: NDArray[np.float64]) -> float:
    """Macro one-versus-rest area of scikit-learn over the classes that occur."""
    if chances.ndim == 1:
        return float(roc_auc_score(truth, chances))
    return float(np.mean([roc_auc_score(truth == c, chances[:, c]) for c in np.unique(truth)]))


@pytest.mark.parametrize("classes", [2, 3, 5, 9])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_are_those_of_scikit_learn(classes: int, missing: float, seed: int) -> None:
    outputs, target = draw(classes, 200, seed, missing=missing)
    labeled = target != MISSING
    truth, chances = target[labeled].numpy(), probabilities(outputs[labeled])
    guess = (chances > 0.5).astype(int) if classes == 2 else chances.argmax(1)
    measured = task_of(classes).metrics(outputs, target)
    assert measured == pytest.approx(
        {
            "loss": log_loss(truth, chances, labels=range(classes)),
            "accuracy": accuracy_score(truth, guess),
            "balanced_accuracy": balanced_accuracy_score(truth, guess),
            "auroc": area(truth, chances),
        },
        rel=1e-5,
    )
    if classes > 2:
        assert measured["auroc"] == pytest.approx(
            roc_auc_score(truth, chances, multi_class="ovr", average="macro"), rel=1e-6
        )


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_a_class_that_does_not_occur_is_left_out_of_the_means(absent: int) -> None:
    outputs, target = draw(5, 200, seed=3)
    here = target != absent
    outputs, target = outputs[here], target[here]
    chances = probabilities(outputs)
    assert (chances.argmax(1) == absent).any()
    measured = task_of(5).metrics(outputs, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of guesses that are no class of the truth
        wanted = balanced_accuracy_score(target.numpy(), chances.argmax(1))
    assert measured["balanced_accuracy"] == pytest.approx(wanted, rel=1e-6)
    assert measured["auroc"] == pytest.approx(area(target.numpy(), chances), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_equal_outputs_count_half_in_the_area(classes: int) -> None:
    outputs, target = draw(classes, 100, seed=4)
    outputs = outputs[torch.arange(100) % 7]
    measured = task_of(classes).metrics(outputs, target)
    assert measured["auroc"] == pytest.approx(area(target.numpy(), probabilities(outputs)), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 20.0, -20.0, 90.0])
def test_the_area_of_two_classes_sees_the_order_of_very_confident_outputs(shift: float) -> None:
    outputs, target = draw(2, 100, seed=5)
    measured = task_of(2).metrics(outputs + shift, target)
    assert measured["auroc"] == pytest.approx(roc_auc_score(target.numpy(), outputs[:, 0].numpy()), rel=1e-6)


@pytest.mark.parametrize("scale", [2.0, 15.0, 60.0])
def test_the_area_of_several_classes_sees_the_order_of_very_confident_outputs(scale: float) -> None:
    outputs, target = draw(4, 300, seed=6, scale=scale)
    exact = outputs.double()
    # The log-odds of a class order samples as its probability does, without running into 1.
    odds = [
        exact[:, c] - torch.cat([exact[:, :c], exact[:, c + 1 :]], dim=1).logsumexp(1)
        for c in range(exact.shape[1])
    ]
    wanted = area(target.numpy(), torch.stack(odds, dim=1).numpy())
    assert task_of(4).metrics(outputs, target)["auroc"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_are_undefined_without_labels(classes: int) -> None:
    outputs, target = draw(classes, 10, seed=0)
    assert task_of(classes).metrics(outputs, torch.full_like(target, MISSING)) == dict.fromkeys(METRICS)
    assert task_of(classes).metrics(outputs[:0], target[:0]) == dict.fromkeys(METRICS)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_metrics_are_undefined_where_a_network_has_come_apart(classes: int, bad: float) -> None:
    outputs, target = draw(classes, 10, seed=0)
    outputs[3, 0] = bad
    assert task_of(classes).metrics(outputs, target) == dict.fromkeys(METRICS)


@pytest.mark.parametrize("classes", [2, 4])
def test_only_the_area_is_undefined_with_a_single_class(classes: int) -> None:
    outputs, target = draw(classes, 50, seed=0)
    measured = task_of(classes).metrics(outputs, torch.ones_like(target))
    guess = (outputs[:, 0] > 0).long() if classes == 2 else outputs.argmax(1)
    assert measured["auroc"] is None
    assert (
        measured["accuracy"]
        == measured["balanced_accuracy"]
        == pytest.approx(float((guess == 1).float().mean()))
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_outputs_of_samples_without_a_label_do_not_matter(classes: int) -> None:
    outputs, target = draw(classes, 40, seed=1, missing=0.4)
    others = torch.where((target == MISSING)[:, None], 50 * torch.randn_like(outputs), outputs)
    assert task_of(classes).metrics(others, target) == task_of(classes).metrics(outputs, target)
    assert task_of(classes).loss(others, target) == task_of(classes).loss(outputs, target)


# Losses


def test_the_loss_of_two_classes_by_hand() -> None:
    outputs = torch.tensor([[0.0], [math.log(3)], [-math.log(3)], [7.0]])
    target = torch.tensor([1, 1, 1, MISSING])
    # Chances of the second class: 1/2, 3/4, 1/4; the last sample has no label.
    wanted = (math.log(2) + math.log(4 / 3) + math.log(4)) / 3
    assert float(task_of(2).loss(outputs, target)) == pytest.approx(wanted)


def test_the_loss_of_three_classes_by_hand() -> None:
    outputs = torch.tensor([[1.0, 1.0, 1.0], [math.log(2), 0.0, 0.0], [9.0, 9.0, 0.0]])
    target = torch.tensor([2, 0, MISSING])
    assert float(task_of(3).loss(outputs, target)) == pytest.approx((math.log(3) + math.log(2)) / 2)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_the_loss_and_its_gradient_are_those_of_torch_on_the_labeled_samples(missing: float) -> None:
    for classes in (2, 3, 7):
        outputs, target = draw(classes, 30, seed=classes, missing=missing)
        ours, theirs = (outputs.clone().requires_grad_(True) for _ in range(2))
        labeled = target != MISSING
        if classes == 2:
            reference = functional.binary_cross_entropy_with_logits(
                theirs[labeled, 0], target[labeled].float()
            )
        else:
            reference = functional.cross_entropy(theirs[labeled], target[labeled])
        loss = task_of(classes).loss(ours, target)
        assert torch.allclose(loss, reference)
        loss.backward()
        reference.backward()
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 5])
def test_without_labels_the_loss_is_0_and_its_gradients_are_0(classes: int) -> None:
    outputs, target = draw(classes, 6, seed=0)
    outputs.requires_grad_(True)
    loss = task_of(classes).loss(outputs, torch.full_like(target, MISSING))
    loss.backward()
    assert loss.item() == 0.0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros_like(outputs))


# Floors


def test_the_floors_of_an_uneven_task_by_hand() -> None:
    train = torch.tensor([2, 2, 2, 0, 1, MISSING, MISSING, MISSING, MISSING])
    test = torch.tensor([0, 2, 2, 0, 0, MISSING])
    info = task_of(4).describe(train, test)
    assert info["test"] == 5
    assert info["classes"] == 4
    assert info["floor"] == pytest.approx({"accuracy": 2 / 5, "balanced_accuracy": 1 / 2, "auroc": 0.5})
    assert info["perfect"] == {"accuracy": 1.0, "balanced_accuracy": 1.0, "auroc": 1.0}


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_who_always_answers_the_commonest_class_scores_the_floor(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    train, test = (torch.randint(0, classes, (200,), generator=generator) for _ in range(2))
    task = task_of(classes)
    answer = int(train.bincount(minlength=classes).argmax())
    outputs = torch.zeros(len(test), task.outputs)
    if classes == 2:
        outputs[:, 0] = 1.0 if answer else -1.0
    else:
        outputs[:, answer] = 1.0
    measured = task.metrics(outputs, test)
    assert {key: measured[key] for key in ("accuracy", "balanced_accuracy", "auroc")} == pytest.approx(
        task.describe(train, test)["floor"]
    )
