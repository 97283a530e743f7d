"""Speed as ratios measured side by side: `nox -s benchmarks`, then compare the rows of a group.

The rows named ``bare`` or ``loop`` are what a straightforward script does; the others are the project's.
"""

import copy
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional

from bench.backbones.small import Small
from bench.datasets.digits import Digits
from bench.defenses.none import NoDefense
from bench.training.loop import train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Recipe
from bench.weightings.ew import EqualWeights
from mtlue.regularizers import embedding_regularizers

CPU = torch.device("cpu")


@pytest.mark.benchmark(group="one epoch of training, digits, small")
def test_fit(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    data = Digits(train=2000, test=10).load(None, tmp_path)
    net = MultiTaskNet(Small(), data.tasks, (3, 32, 32))
    recipe = Recipe(epochs=1, batch=128)
    balancer = EqualWeights().start(data.tasks, CPU)

    def epoch() -> None:
        list(train_epochs(net, data.train, data.tasks, recipe, data.augmentation, balancer, NoDefense(), CPU))

    benchmark.pedantic(epoch, rounds=7, warmup_rounds=1)


@pytest.mark.benchmark(group="one epoch of training, digits, small")
def test_bare_loop(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    data = Digits(train=2000, test=10).load(None, tmp_path)
    net = MultiTaskNet(Small(), data.tasks, (3, 32, 32))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)

    def epoch() -> None:
        net.train()
        for rows in torch.randperm(len(data.train)).split(128):
            images = data.train.images[rows].float() / 255
            losses = []
            for task, out in zip(data.tasks, net(images), strict=True):
                target = data.train.targets[task.name][rows]
                if out.shape[1] == 1:
                    losses.append(functional.binary_cross_entropy_with_logits(out[:, 0], target.float()))
                else:
                    losses.append(functional.cross_entropy(out, target))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()

    benchmark.pedantic(epoch, rounds=7, warmup_rounds=1)


EMBEDDINGS = [torch.randn(2, 16 * 16 * 16) for _ in range(40)]


@pytest.mark.benchmark(group="regularizers, 40 binary tasks")
def test_one_matrix_product(benchmark: BenchmarkFixture) -> None:
    benchmark(embedding_regularizers, EMBEDDINGS)


@pytest.mark.benchmark(group="regularizers, 40 binary tasks")
def test_loop_over_pairs(benchmark: BenchmarkFixture) -> None:
    def loop() -> None:
        rows = [(task, row) for task, matrix in enumerate(EMBEDDINGS) for row in matrix]
        intra, inter = [], []
        for i, (task, row) in enumerate(rows):
            for other, column in rows[i + 1 :]:
                cosine = functional.cosine_similarity(row, column, dim=0)
                (intra if task == other else inter).append(cosine)
        torch.stack(intra).mean(), torch.stack(inter).abs().mean()

    benchmark.pedantic(loop, rounds=3)


SINGLE_TASK_NETS = 8
BATCH = torch.rand(128, 3, 32, 32), torch.randint(0, 2, (128, SINGLE_TASK_NETS)).float()


def single_task_nets() -> list[torch.nn.Module]:
    """As many small networks with one binary output each."""
    nets: list[torch.nn.Module] = []
    for _ in range(SINGLE_TASK_NETS):
        encoder, width = Small(width=8).build((3, 32, 32))
        nets.append(torch.nn.Sequential(encoder, torch.nn.Linear(width, 1)).train())
    return nets


@pytest.mark.benchmark(group="one step of 8 single-task networks")
def test_one_network_after_the_other(benchmark: BenchmarkFixture) -> None:
    nets, (images, labels) = single_task_nets(), BATCH

    def step() -> None:
        for number, net in enumerate(nets):
            net.zero_grad(set_to_none=True)
            loss = functional.binary_cross_entropy_with_logits(net(images)[:, 0], labels[:, number])
            loss.backward()

    benchmark.pedantic(step, rounds=7, warmup_rounds=1)


@pytest.mark.benchmark(group="one step of 8 single-task networks")
def test_networks_stacked_into_one(benchmark: BenchmarkFixture) -> None:
    nets, (images, labels) = single_task_nets(), BATCH
    parameters, buffers = torch.func.stack_module_state(nets)
    skeleton = copy.deepcopy(nets[0]).to("meta")

    def forward(own: dict[str, Tensor], state: dict[str, Tensor], seen: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(skeleton, (own, state), (seen,))
        return outputs

    def step() -> None:
        for parameter in parameters.values():
            parameter.grad = None
        outputs = torch.vmap(forward, in_dims=(0, 0, None))(parameters, buffers, images)
        losses = functional.binary_cross_entropy_with_logits(outputs[..., 0], labels.T, reduction="none")
        losses.mean(1).sum().backward()

    benchmark.pedantic(step, rounds=7, warmup_rounds=1)
