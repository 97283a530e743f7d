"""Adversarial training: learn from the worst images within a ball around the released ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import nn

from bench.api import Task
from bench.defenses.base import NoOp
from bench.training.loop import batch_losses
from bench.values import Batch


@dataclass(frozen=True)
class Adversarial(NoOp):
    """Adversarial training: in every step the network learns from the worst images within an ℓ∞ ball.

    They are found by projected signed gradient ascent on the joint loss, the mean over the tasks, from a
    start drawn uniformly from the ball. The network is in evaluation mode meanwhile, so that only the final
    images enter its batch statistics.

    Source: Madry et al., ICLR 2018, arXiv:1706.06083; against unlearnable examples Tao et al., NeurIPS 2021,
    arXiv:2102.04716; radius, steps and step size as in Yu et al., ICML 2025 (MTL-UE)

    Attributes:
        radius: of the ball, in 1/255.
        steps: gradient steps per batch.
        step_size: of one step, in 1/255.
    """

    radius: Annotated[float, Gt(0)] = 8.0
    steps: Annotated[int, Ge(1)] = 10
    step_size: Annotated[float, Gt(0)] = 2.0
    version: ClassVar[int] = 1

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch with adversarial images; the network's weights, statistics and ``.grad`` stay."""
        radius, step_size = self.radius / 255, self.step_size / 255
        low, high = (batch.images - radius).clamp(0, 1), (batch.images + radius).clamp(0, 1)
        images = batch.images + radius * (2 * torch.rand_like(batch.images) - 1)
        with _evaluation_mode(net):
            for _ in range(self.steps):
                images = images.clamp(low, high).detach().requires_grad_(True)
                loss = batch_losses(net(images), tasks, batch).mean()
                images = images + step_size * torch.autograd.grad(loss, images)[0].sign()
        return replace(batch, images=images.clamp(low, high).detach())


@contextmanager
def _evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and restore the mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
