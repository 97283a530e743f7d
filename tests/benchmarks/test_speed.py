"""Speed as ratios measured side by side: `nox -s benchmarks`, then compare the rows of a group.

The rows named ``bare`` or ``loop`` are what a straightforward script does; the others are the project's.
"""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

from bench.api import Recipe
from bench.backbones.small import Small
from bench.datasets.digits import Digits
from bench.defenses.none import NoDefense
from bench.net import MultiTaskNet
from bench.training import fit
from bench.weightings.ew import EqualWeights
from mtlue.regularizers import embedding_regularizers

CPU = torch.device("cpu")


@pytest.mark.benchmark(group="one epoch of training, digits, small")
def test_fit(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    data = Digits(train=2000, test=10).load(None, tmp_path)
    net = MultiTaskNet(Small(), data.tasks, (3, 32, 32))
    recipe = Recipe(epochs=1, batch=128)
    weighting = EqualWeights()

    def epoch() -> None:
        list(fit(net, data.train, data.tasks, recipe, data.augmentation, weighting, NoDefense(), CPU))

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


@pytest.mark.benchmark(group="regularisers, 40 binary tasks")
def test_one_matrix_product(benchmark: BenchmarkFixture) -> None:
    benchmark(embedding_regularizers, EMBEDDINGS)


@pytest.mark.benchmark(group="regularisers, 40 binary tasks")
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
