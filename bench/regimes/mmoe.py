"""Multi-gate mixture of experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Backbone, Task, Weighting
from bench.regimes.side_by_side import GroupedLinear, SideBySide, number_owners
from bench.training.net import REPRESENTATION, MultiTaskNet
from bench.values import DENSE, Kind, Precision, Shape


@dataclass(frozen=True)
class MMoE:
    """Multi-gate mixture of experts (MMoE): several encoders, which every task mixes in its own proportions.

    An expert is what is shared under ``mtl``: the backbone and the representation of 256 features. A task has
    a gate, a linear layer on the image's pixels and a softmax, which says for every image how much of each
    expert the task's head reads. It takes as much time and memory as that many networks.

    What weightings see as shared are the experts, and as features their representations, which all tasks
    read. Gates belong to the heads and get the gradient of their own task.

    Source: Ma et al., KDD 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", Eq. 6 and 7; with encoders of images as experts and gates on their pixels: Lin &
    Zhang, JMLR 2023, arXiv:2203.14338 (LibMTL)

    Departs from the paper: an expert is a whole encoder, a task's tower one linear head, since every network
    of the benchmark has linear heads; there are 3 experts in place of 8 small layers.

    Attributes:
        experts: number of encoders.
    """

    experts: Annotated[int, Ge(1)] = 3
    version: ClassVar[int] = 1

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Return all tasks as one group."""
        return (tasks,)

    def explain_misfit(self, backbone: Backbone, weighting: Weighting, kinds: frozenset[Kind]) -> str | None:
        """Return why it does not fit: its heads are linear."""
        dense = sorted(kinds & DENSE)
        return f"cannot work with dense tasks ({', '.join(dense)})" if dense else None

    def build(
        self, backbone: Backbone, tasks: Sequence[Task], shape: Shape, pieces: int, precision: Precision
    ) -> MultiTaskNet:
        """Return the network for classification tasks on images of exactly this shape."""
        return MixtureNet(backbone, tasks, shape, pieces, precision, self.experts)


class MixtureNet(MultiTaskNet):
    """Experts, and a gate and a head per task.

    Heads are linear and a gate's shares sum to 1. So every head reads every expert, and the outputs are mixed
    rather than the inputs: the same numbers with less to compute.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[Task],
        shape: Shape,
        pieces: int,
        precision: Precision,
        experts: int,
    ) -> None:
        super().__init__(backbone, tasks, shape, pieces, precision)
        others = [backbone.build(shape)[0] for _ in range(experts - 1)]
        self.encoder = SideBySide([self.encoder, *others])
        self.representation = nn.Sequential(GroupedLinear(experts, self.width, REPRESENTATION), nn.ELU())
        self.gates = nn.Linear(prod(shape), len(tasks) * experts)

    def apply_heads(self, features: Float[Tensor, "b ed"], images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return the tasks' outputs [b o], given the experts' representations, one after the other."""
        by_expert = self.heads(features.unflatten(1, (-1, REPRESENTATION)))
        shares = self.gates(images.flatten(1)).unflatten(1, (len(self._outputs), -1)).softmax(-1)
        owners = number_owners(self._outputs).to(features.device)
        outputs = torch.einsum("beo,boe->bo", by_expert, shares.index_select(1, owners))
        return list(outputs.split(self._outputs, dim=1))
