"""The checks of a weighting."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.api import Balancer, Step
from bench.catalog.build import build_part
from bench.conformance.part import CPU, Check, ContractError, PartUnderTest
from bench.tasks.classification import Classification
from bench.training.loop import losses_of_outputs
from bench.training.net import MultiTaskNet
from bench.values import MISSING

TASKS = (
    Classification("two", ("a", "b")),
    Classification("three", ("a", "b", "c")),
    Classification("four", ("a", "b", "c", "d")),
)

COUNTS = {"one task": 1, "two tasks": 2, "three tasks": 3}
"""Case → number of tasks."""


def trains_every_parameter(tested: PartUnderTest, case: str) -> None:
    """Check weights, losses and gradients over three steps."""
    tasks = TASKS[: COUNTS[case]]
    balancer = _start(tested, tasks)
    for seed in range(3):
        step, net = make_step(tasks, seed)
        losses = step.losses.detach().clone()
        _check_weights(balancer.backward(step), len(tasks))
        if not torch.equal(step.losses.detach(), losses):
            raise ContractError("backward() writes to the losses")
        _check_gradients(net)
        for task, trained in zip(tasks, _trained_heads(net, tasks), strict=True):
            if not trained:
                raise ContractError(f"the head of task {task.name!r} gets no gradient")
        balancer.finish_epoch(losses)


def trains_one_task_as_if_alone(tested: PartUnderTest, _: str) -> None:
    """Check that the gradient of one task only has its direction."""
    step, net = make_step(TASKS[1:2], 0)
    alone = _concatenate_gradients(
        torch.autograd.grad(step.losses.sum(), net.shared_parameters(), retain_graph=True)
    )
    _start(tested, TASKS[1:2]).backward(step)
    trained = _concatenate_gradients(
        [p.grad if p.grad is not None else torch.zeros_like(p) for p in net.shared_parameters()]
    )
    if float(torch.cosine_similarity(trained, alone, dim=0)) < 0.9999:
        raise ContractError("with one task, the shared parameters do not get the direction of its gradient")


def starts_every_run_afresh(tested: PartUnderTest, _: str) -> None:
    """Check that two training runs with the same seed give the same weights."""

    def run() -> list[list[float]]:
        balancer = _start(tested, TASKS)
        steps = [make_step(TASKS, seed)[0] for seed in range(4)]
        torch.manual_seed(1)
        return [balancer.backward(step).tolist() for step in steps]

    if run() != run():
        raise ContractError("two training runs with the same seed give different weights")


def leaves_out_tasks_without_labels(tested: PartUnderTest, _: str) -> None:
    """Check steps in which a task has no label."""
    balancer = _start(tested, TASKS)
    for seed, unlabeled in enumerate([None, 1, 0, None]):
        step, net = make_step(TASKS, seed, unlabeled)
        _check_weights(balancer.backward(step), len(TASKS))
        _check_gradients(net)
        for number, trained in enumerate(_trained_heads(net, TASKS)):
            if trained == (number == unlabeled):
                wrong = "a gradient without labels" if number == unlabeled else "no gradient from its labels"
                raise ContractError(f"the head of a task gets {wrong}, in a step where one task has none")
        if not any(p.grad is not None and p.grad.any() for p in step.shared):
            raise ContractError("the shared parameters get no gradient in a step where a task has no label")
        balancer.finish_epoch(step.losses.detach())


def make_step(
    tasks: Sequence[Classification], seed: int, unlabeled: int | None = None
) -> tuple[Step, MultiTaskNet]:
    """Return a training step of an untrained network on random images and labels; one task may have none."""
    torch.manual_seed(seed)
    net = MultiTaskNet(build_part("backbone", "small(width=2)"), tasks, (3, 32, 32))
    targets = {task.name: torch.randint(0, task.classes, (8,)) for task in tasks}
    if unlabeled is not None:
        targets[tasks[unlabeled].name][:] = MISSING
    images = torch.rand(8, 3, 16, 16)
    features = net.encode(images)
    losses = losses_of_outputs(net.apply_heads(features, images), tasks, targets)
    labeled = torch.tensor([number != unlabeled for number in range(len(tasks))])
    return Step(losses, labeled, features, net.shared_parameters(), losses.detach), net


def _start(tested: PartUnderTest, tasks: Sequence[Classification]) -> Balancer:
    balancer = tested.part.start(tasks, CPU)
    if not isinstance(balancer, Balancer):
        raise ContractError("start() returns something that is not a Balancer, see bench/api.py")
    return balancer


def _check_weights(weights: Tensor, count: int) -> None:
    if weights.shape != (count,):
        raise ContractError(f"backward() returns weights of shape {tuple(weights.shape)} for {count} tasks")
    if not weights.isfinite().all():
        raise ContractError(f"backward() returns weights that are not finite: {weights.tolist()}")


def _check_gradients(net: nn.Module) -> None:
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            raise ContractError(f"the parameter {name} gets no gradient")
        if not parameter.grad.isfinite().all():
            raise ContractError(f"the gradient of {name} is not finite")


def _trained_heads(net: MultiTaskNet, tasks: Sequence[Classification]) -> list[bool]:
    """Return which tasks' heads, rows of one layer, have a gradient that is not zero."""
    rows = torch.stack([p.grad.view(len(p), -1).any(1) for p in net.heads.parameters() if p.grad is not None])
    return [bool(own.any()) for own in rows.split([task.outputs for task in tasks], dim=1)]


def _concatenate_gradients(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


WEIGHTING_CHECKS = (
    Check("trains every parameter", trains_every_parameter, tuple(COUNTS)),
    Check("trains one task as if it were alone", trains_one_task_as_if_alone),
    Check("starts every training run afresh", starts_every_run_afresh),
    Check("leaves out a task without labels", leaves_out_tasks_without_labels),
)
"""The contract of a weighting, in the order in which it is checked."""
