"""Crafting beside a straightforward script: networks in plain layout, batch normalization as it is."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.crafting.noise_table import Table
from baselines.crafting.objectives import FixedSurrogate
from bench.api import CraftContext
from bench.backbones.small import Small
from bench.datasets.digits import Digits
from bench.training.loaders import make_batch
from bench.training.net import MultiTaskNet
from bench.values import Batch
from mtlue.attack import GeneratedNoise
from mtlue.generator import Generator
from mtlue.regularizers import embedding_regularizers
from tests.benchmarks.side_by_side import SideBySide

EPSILON = 8 / 255
CPU = torch.device("cpu")


def test_memory_layout(side_by_side: SideBySide) -> None:
    images = torch.rand(128, 3, 36, 36)

    def step(layout: torch.memory_format) -> None:
        net = nets[layout]
        net.zero_grad(set_to_none=True)
        net(images).square().mean().backward()

    layouts = (torch.contiguous_format, torch.channels_last)
    nets = {layout: Small().build((3, 36, 36))[0] for layout in layouts}
    for layout, net in nets.items():
        net.to(memory_format=layout)  # type: ignore[call-overload]
    side_by_side(
        "training step, small, channels last beside plain layout",
        plain=lambda: step(torch.contiguous_format),
        ours=lambda: step(torch.channels_last),
        rounds=15,
    )


class Case:
    """Digits, clean surrogates for the project, and the same in plain layout."""

    def __init__(self, images: int, surrogates: int) -> None:
        self.data = Digits(train=images, test=10).load(None, Path())
        self.split, self.tasks = self.data.train, self.data.tasks
        self.nets = [MultiTaskNet(Small(), self.tasks, (3, 32, 32)).eval() for _ in range(surrogates)]
        self.plain = [MultiTaskNet(Small(), self.tasks, (3, 32, 32)).eval() for _ in range(surrogates)]
        for plain, net in zip(self.plain, self.nets, strict=True):
            plain.requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            plain.load_state_dict(net.state_dict())
        self.batch: Batch = make_batch(self.split, torch.arange(images), CPU)

    def objective(self) -> FixedSurrogate:
        context = CraftContext(
            self.tasks,
            self.data.augmentation,
            EPSILON,
            lambda: self.nets[0],
            lambda _: self.nets,
            CPU,
            lambda *_: None,
        )
        return FixedSurrogate(self.split, context, self.nets, view="image")

    def shifted(self) -> list[Tensor]:
        return [task.shifted(self.batch.targets[task.name]) for task in self.tasks]


def shifted_loss(net: MultiTaskNet, images: Tensor, shifted: Sequence[Tensor]) -> Tensor:
    """The mean over tasks of the loss of the shifted labels, written out."""
    losses = [
        functional.binary_cross_entropy_with_logits(out[:, 0], label.float())
        if out.shape[1] == 1
        else functional.cross_entropy(out, label)
        for out, label in zip(net(images), shifted, strict=True)
    ]
    return torch.stack(losses).mean()


def test_tap_beside_a_plain_loop(side_by_side: SideBySide) -> None:
    case, step = Case(images=128, surrogates=1), 1.6 / 255
    objective, images = case.objective(), case.batch.images
    table = Table(case.split, epsilon=EPSILON, steps=10, step_size=step, start="normal")

    def ours() -> None:
        table.update(case.batch, objective.losses(case.batch))

    def plain_loop() -> None:
        shifted = case.shifted()
        delta = (EPSILON * torch.randn_like(images)).clamp(-EPSILON, EPSILON)
        for _ in range(10):
            delta.requires_grad_(True)
            loss = shifted_loss(case.plain[0], (images + delta).clamp(0, 1), shifted)
            (slope,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() - step * slope.sign()).clamp(-EPSILON, EPSILON)
            delta = (images + delta).clamp(0, 1) - images

    side_by_side("tap, 10 steps, small, beside a plain loop", plain=plain_loop, ours=ours, target=2)


@pytest.mark.parametrize(("width", "images", "target"), [(8, 64, 4), (64, 16, 12)])
def test_generator_step_with_15_checkpoints(
    side_by_side: SideBySide, width: int, images: int, target: float
) -> None:
    case = Case(images=images, surrogates=15)
    objective, batch = case.objective(), case.batch
    generator, other = (
        Generator(case.tasks, 3, 32, 32, epsilon=EPSILON, base_width=width, embedding_channels=16)
        for _ in range(2)
    )
    noise = GeneratedNoise(generator, intra=20.0, inter=100.0, learning_rate=1e-3, rounds=1)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3, weight_decay=1e-4)

    def ours() -> None:
        noise.update(batch, objective.losses(batch))

    def once_per_checkpoint() -> None:
        optimizer.zero_grad()
        shifted = case.shifted()
        for net in case.plain:
            seen = (batch.images + other(batch.images, batch.targets)).clamp(0, 1)
            intra, inter = embedding_regularizers(other.class_embeddings())
            (shifted_loss(net, seen, shifted) + 20 * intra + 100 * inter).backward()
        optimizer.step()

    side_by_side(
        f"mtl-ue-sep, one step, 15 checkpoints, width {width}, beside the generator once per checkpoint",
        plain=once_per_checkpoint,
        ours=ours,
        target=target,
        rounds=3,
    )
