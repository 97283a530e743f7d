"""Training steps whose tasks have given losses and gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.api import Balancer, Step
from bench.catalog.build import build_part
from bench.catalog.choice import Choice
from bench.tasks.classification import Classification

CPU = torch.device("cpu")


def tasks(count: int) -> tuple[Classification, ...]:
    """Tasks of two classes."""
    return tuple(Classification(f"task {number}", ("a", "b")) for number in range(count))


def start(weighting: str | Choice, count: int) -> Balancer:
    """A fresh balancer of a weighting."""
    balancer: Balancer = build_part("weighting", weighting).start(tasks(count), CPU)
    return balancer


@dataclass(frozen=True, eq=False)
class Fixed:
    """A step and what it depends on.

    Attributes:
        step: the step.
        shared: the shared parameter, [1 d]; it is the features as well.
        heads: one parameter per task; each head's own gradient is 1.
    """

    step: Step
    shared: nn.Parameter
    heads: list[nn.Parameter]

    def run(self, balancer: Balancer) -> tuple[Tensor, Tensor, Tensor]:
        """Take it; return the weights, the shared parameter's gradient [d] and the heads' gradients [t]."""
        weights = balancer.backward(self.step)
        balancer.finish_step(self.step)
        assert self.shared.grad is not None
        own = torch.stack([torch.zeros(()) if head.grad is None else head.grad for head in self.heads])
        return weights, self.shared.grad[0], own


def fixed(
    gradients: Tensor,
    losses: Sequence[float] | Tensor | None = None,
    labeled: Sequence[bool] | None = None,
    after: Sequence[float] | None = None,
) -> Fixed:
    """A step with these gradients [t d] and losses [t] (1 unless said); without a label both are 0.

    The losses after the step are as before it, unless said.
    """
    count, width = gradients.shape
    has_label = torch.tensor([True] * count if labeled is None else labeled)
    wanted = torch.ones(count) if losses is None else torch.as_tensor(losses, dtype=torch.float32)
    shared = nn.Parameter(torch.ones(1, width))
    heads = [nn.Parameter(torch.zeros(())) for _ in range(count)]
    features = shared * 1
    above = (features - 1) @ gradients.T  # 0, and its derivatives are the gradients
    values = torch.stack([value + head for value, head in zip(above[0], heads, strict=True)]) + wanted
    then = (wanted if after is None else torch.tensor(after)) * has_label
    return Fixed(Step(values * has_label, has_label, features, [shared], lambda: then), shared, heads)
