"""Train a surrogate while the noise is crafted."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from baselines.crafting.loop import State
from baselines.crafting.objective_helpers import batch_loss
from bench.api import CraftContext
from bench.values import Batch


@dataclass(frozen=True)
class SurrogateTraining:
    """How a surrogate is trained along with the noise.

    Attributes:
        steps: mini-batches between two passes of noise improvement.
        batch: images per step.
        optimizer: ``sgd`` with momentum 0.9, or ``adam``.
        learning_rate: the optimizer's.
        weight_decay: the optimizer's, coupled (L2).
        clip_norm: gradients are scaled down to this norm; None: they are not.
        shuffle: draw a new order for every pass.
        milestones: surrogate steps after which the learning rate is divided by ten.
    """

    steps: int
    batch: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    shuffle: bool
    milestones: tuple[int, ...] = ()


class SurrogateInTraining:
    """A surrogate that is trained along with the noise, and what its training needs."""

    def __init__(self, context: CraftContext, training: SurrogateTraining) -> None:
        self.net = context.new_surrogate()
        self._tasks, self._training = context.tasks, training
        parameters, how = self.net.parameters(), training
        self._optimizer: torch.optim.Optimizer
        if how.optimizer == "adam":
            self._optimizer = torch.optim.Adam(
                parameters, lr=how.learning_rate, weight_decay=how.weight_decay
            )
        else:
            self._optimizer = torch.optim.SGD(
                parameters, lr=how.learning_rate, momentum=0.9, weight_decay=how.weight_decay
            )
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, list(how.milestones))

    def frozen(self) -> nn.Module:
        """Return the network in evaluation mode, without gradients of its own."""
        return self.net.eval().requires_grad_(False)

    def step(self, batch: Batch) -> None:
        """Take one optimizer step toward the true labels."""
        self.net.train().requires_grad_(True)
        self._optimizer.zero_grad(set_to_none=True)
        batch_loss(self.net, self._tasks, batch).backward()
        if self._training.clip_norm is not None:
            clip_grad_norm_(self.net.parameters(), self._training.clip_norm)
        self._optimizer.step()
        self._schedule.step()

    def state(self) -> State:
        """Return the network, the optimizer and the schedule."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Take up a state."""
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
