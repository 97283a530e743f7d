"""Heads and losses of 40 binary tasks on given features, without the optimizer's step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.backbones.small import Small
from bench.tasks.classification import Classification
from bench.tasks.together import labeled_by_task
from bench.training.loop import losses_of_outputs
from bench.training.net import REPRESENTATION, MultiTaskNet
from tests.benchmarks.side_by_side import SideBySide

BATCH = 512
TASKS = tuple(Classification(str(number), ("a", "b")) for number in range(40))
LABELS = torch.randint(0, 2, (len(TASKS), BATCH))
INPUT = torch.randn(BATCH, REPRESENTATION)
IMAGES = torch.rand(BATCH, 3, 32, 32)
"""Linear heads do not look at them."""


class Forms:
    """Three ways to compute losses and gradients of the same heads."""

    def __init__(self, device: torch.device) -> None:
        self._net = MultiTaskNet(Small(width=2), TASKS, (3, 32, 32)).to(device)
        self._layers = nn.ModuleList(nn.Linear(REPRESENTATION, 1) for _ in TASKS).to(device)
        self._features = INPUT.to(device).requires_grad_(True)
        self._joined = LABELS.T.to(device).float()
        self._targets = {task.name: LABELS[number].to(device) for number, task in enumerate(TASKS)}

    def ours(self) -> None:
        """As training has them: every label may be missing, and what is missing is counted."""
        labeled_by_task(TASKS, self._targets).sum(1)
        outputs = self._net.apply_heads(self._features, IMAGES)
        self._differentiate(self._net.heads, losses_of_outputs(outputs, TASKS, self._targets).mean)

    def one_layer_and_loss(self) -> None:
        """The floor: no label is missing, and all are one matrix from the start."""
        logits = self._net.heads(self._features)
        self._differentiate(
            self._net.heads, lambda: functional.binary_cross_entropy_with_logits(logits, self._joined)
        )

    def layer_and_loss_per_task(self) -> None:
        """A loop over the tasks."""
        for task in TASKS:
            task.labeled(self._targets[task.name]).sum()
        losses = [
            task.loss(layer(self._features), self._targets[task.name])
            for task, layer in zip(TASKS, self._layers, strict=True)
        ]
        self._differentiate(self._layers, torch.stack(losses).mean)

    def _differentiate(self, heads: nn.Module, loss: Callable[[], Tensor]) -> None:
        self._features.grad = None
        heads.zero_grad(set_to_none=True)
        loss().backward()


def test_heads_beside_one_layer_and_loss(side_by_side: SideBySide, device: torch.device) -> None:
    forms = Forms(device)
    side_by_side(
        "heads and losses, 40 tasks, beside one layer and one loss",
        plain=forms.one_layer_and_loss,
        ours=forms.ours,
        target=0.8,
        rounds=50,
    )


def test_heads_beside_a_loop(side_by_side: SideBySide, device: torch.device) -> None:
    forms = Forms(device)
    side_by_side(
        "heads and losses, 40 tasks, beside a loop over the tasks",
        plain=forms.layer_and_loss_per_task,
        ours=forms.ours,
        rounds=50,
    )
