"""Tasks that are asked together against the same tasks asked one by one."""

import random
from dataclasses import dataclass, replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from bench.api import Task
from bench.backbones.small import Small
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.together import labeled_by_task, losses_by_task, wrong_by_task
from bench.training.loop import batch_losses, labeled_tasks
from bench.training.net import REPRESENTATION, MultiTaskNet
from bench.values import MISSING, Batch

COUNT = 37


@dataclass(frozen=True)
class Smoothed(Classification):
    """A classification with a loss of its own, which knows nothing of stacked tasks."""

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        assert outputs.ndim == 2
        return nn.functional.cross_entropy(outputs, target.clamp(min=0), label_smoothing=0.1)


def classifications(*classes: int) -> tuple[Task, ...]:
    return tuple(Classification(f"{n}: {k}", tuple(map(str, range(k)))) for n, k in enumerate(classes))


FOREIGN = (*classifications(2, 3, 2, 3), Smoothed("own", ("a", "b", "c")), Smoothed("own 2", ("a", "b", "c")))
CASES = {
    "one": classifications(2),
    "one of many classes": classifications(10),
    "forty": classifications(*[2] * 40),
    "all sorts": classifications(2, 2, 10, 10, 7),
    "another order": classifications(10, 2, 7, 2, 10),
    "a foreign class": FOREIGN,
    "dense too": (*classifications(2, 2), Depth("far", 0.1, 10.0), *classifications(3, 3)[1:]),
}
EACH_CASE = pytest.mark.parametrize("tasks", CASES.values(), ids=CASES)


def draw_targets(tasks: tuple[Task, ...], missing: float) -> dict[str, Tensor]:
    targets = {}
    for task in tasks:
        if task.kind == "depth":
            targets[task.name] = torch.rand(COUNT, 1, 4, 4) + 0.5
            continue
        labels = torch.randint(0, task.classes, (COUNT,))
        targets[task.name] = labels.where(torch.rand(COUNT) >= missing, MISSING)
    return targets


def draw_outputs(tasks: tuple[Task, ...]) -> list[Tensor]:
    sizes = [(4, 4) if task.kind == "depth" else () for task in tasks]
    return [3 * torch.randn(COUNT, task.outputs, *size) for task, size in zip(tasks, sizes, strict=True)]


@EACH_CASE
@pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
def test_answers_are_those_of_every_task_alone_to_the_last_bit(
    tasks: tuple[Task, ...], missing: float
) -> None:
    torch.manual_seed(1)
    targets, outputs = draw_targets(tasks, missing), draw_outputs(tasks)
    alone = [(task, out, targets[task.name]) for task, out in zip(tasks, outputs, strict=True)]
    losses = torch.stack([task.loss(out, target) for task, out, target in alone])
    assert torch.equal(losses_by_task(tasks, outputs, targets), losses)
    wrong = torch.stack([task.share_wrong(out, target) for task, out, target in alone])
    assert torch.equal(wrong_by_task(tasks, outputs, targets), wrong)
    labeled = torch.stack([task.labeled(target) for task, _, target in alone])
    assert torch.equal(labeled_by_task(tasks, targets), labeled)
    assert labeled_tasks(tasks, targets).tolist() == labeled.any(1).tolist()


@EACH_CASE
def test_gradients_are_those_of_every_task_alone(tasks: tuple[Task, ...]) -> None:
    torch.manual_seed(2)
    targets = draw_targets(tasks, 0.3)
    outputs = [out.requires_grad_() for out in draw_outputs(tasks)]
    weights = torch.rand(len(tasks))
    together = torch.autograd.grad(weights @ losses_by_task(tasks, outputs, targets), outputs)
    for weight, task, out, found in zip(weights, tasks, outputs, together, strict=True):
        (wanted,) = torch.autograd.grad(weight * task.loss(out, targets[task.name]), out)
        assert torch.allclose(found, wanted, atol=1e-7)
        assert found.any()


@EACH_CASE
def test_mixed_images_have_the_losses_of_both_targets(tasks: tuple[Task, ...]) -> None:
    torch.manual_seed(3)
    outputs, own, others = draw_outputs(tasks), draw_targets(tasks, 0.3), draw_targets(tasks, 0.3)
    plain = Batch(torch.zeros(COUNT, 1, 4, 4), own, torch.arange(COUNT))
    for task, out, loss in zip(
        tasks, outputs, batch_losses(outputs, tasks, replace(plain, mixed=others, share=0.7)), strict=True
    ):
        wanted = 0.7 * task.loss(out, own[task.name]) + 0.3 * task.loss(out, others[task.name])
        assert torch.allclose(loss, wanted)


def test_losses_per_sample_can_be_mapped() -> None:
    tasks = CASES["all sorts"]
    outputs, targets = draw_outputs(tasks), draw_targets(tasks, 0.3)

    def one(outputs: list[Tensor], targets: dict[str, Tensor]) -> Tensor:
        alone = {name: target[None] for name, target in targets.items()}
        return losses_by_task(tasks, [out[None] for out in outputs], alone)

    mapped = torch.vmap(one)(outputs, targets)
    for row in range(0, COUNT, 9):
        some = {name: target[row : row + 1] for name, target in targets.items()}
        wanted = losses_by_task(tasks, [out[row : row + 1] for out in outputs], some)
        assert torch.allclose(mapped[row], wanted, atol=1e-6)


def test_linear_heads_are_the_rows_of_one_layer_in_the_order_of_the_tasks() -> None:
    torch.manual_seed(4)
    tasks = list(CASES["all sorts"])
    random.Random(0).shuffle(tasks)
    net = MultiTaskNet(Small(width=2), tasks, (3, 32, 32)).eval()
    images = torch.rand(5, 3, 32, 32)
    features, outputs = net.encode(images), net(images)
    heads = cast("nn.Linear", net.heads)
    start = 0
    for task, out in zip(tasks, outputs, strict=True):
        rows = slice(start, start := start + task.outputs)
        assert torch.allclose(out, features @ heads.weight[rows].T + heads.bias[rows], atol=1e-6)
    assert heads.weight.shape == (start, REPRESENTATION)
