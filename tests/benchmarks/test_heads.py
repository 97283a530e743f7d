"""Heads and losses of 40 binary tasks, with the optimizer's step on the heads: three forms side by side.

The floor is one linear layer and one loss without missing labels; the plain form has a layer and a loss per
task.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional

from bench.backbones.small import Small
from bench.tasks.classification import Classification
from bench.tasks.together import labeled_by_task
from bench.training.loop import losses_of_outputs
from bench.training.net import REPRESENTATION, MultiTaskNet

BATCH = 512
TASKS = tuple(Classification(str(number), ("a", "b")) for number in range(40))
TARGETS = {task.name: torch.randint(0, 2, (BATCH,)) for task in TASKS}
JOINED = torch.stack([TARGETS[task.name] for task in TASKS], dim=1).float()
FEATURES = torch.randn(BATCH, REPRESENTATION, requires_grad=True)
GROUP = "heads, losses and optimizer, 40 binary tasks"


def step_of(heads: nn.Module, mean_loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a training step on fixed features."""
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-3, weight_decay=1e-4)

    def step() -> None:
        FEATURES.grad = None
        optimizer.zero_grad(set_to_none=True)
        mean_loss().backward()
        optimizer.step()

    return step


@pytest.mark.benchmark(group=GROUP)
def test_heads_of_a_network(benchmark: BenchmarkFixture) -> None:
    net = MultiTaskNet(Small(width=2), TASKS, (3, 32, 32))

    def mean_loss() -> Tensor:
        shares = labeled_by_task(TASKS, TARGETS).sum(1) / BATCH
        losses = losses_of_outputs(net.apply_heads(FEATURES, (32, 32)), TASKS, TARGETS)
        return losses.mean() + 0 * shares.sum()

    benchmark.pedantic(step_of(net.heads, mean_loss), rounds=50, warmup_rounds=3)


@pytest.mark.benchmark(group=GROUP)
def test_bare_layer_and_loss(benchmark: BenchmarkFixture) -> None:
    head = nn.Linear(REPRESENTATION, len(TASKS))

    def mean_loss() -> Tensor:
        return functional.binary_cross_entropy_with_logits(head(FEATURES), JOINED)

    benchmark.pedantic(step_of(head, mean_loss), rounds=50, warmup_rounds=3)


@pytest.mark.benchmark(group=GROUP)
def test_loop_over_layers_and_losses(benchmark: BenchmarkFixture) -> None:
    heads = nn.ModuleList(nn.Linear(REPRESENTATION, 1) for _ in TASKS)

    def mean_loss() -> Tensor:
        shares = torch.stack([task.labeled(TARGETS[task.name]).sum() for task in TASKS]) / BATCH
        outputs = [head(FEATURES) for head in heads]
        losses = [task.loss(out, TARGETS[task.name]) for task, out in zip(TASKS, outputs, strict=True)]
        return torch.stack(losses).mean() + 0 * shares.sum()

    benchmark.pedantic(step_of(heads, mean_loss), rounds=50, warmup_rounds=3)
