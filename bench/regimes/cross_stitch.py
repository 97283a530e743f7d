"""Cross-stitch networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from annotated_types import Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Backbone, Task, Weighting
from bench.regimes.side_by_side import GroupedLinear, average_map, number_owners
from bench.regimes.stages import count_channels, split_at_poolings
from bench.training.net import REPRESENTATION, MultiTaskNet
from bench.values import DENSE, Kind, Precision, Shape


@dataclass(frozen=True)
class CrossStitch:
    """Cross-stitch network: one network per task, which read each other's activations between their stages.

    A cross-stitch unit follows every stage. It gives the next stage of a task's network a learned linear
    combination of the activations of all tasks' networks, channel by channel. Stages end at poolings and at
    groups of layers (``layer1`` of a ResNet), and with the representation of 256 features. A network whose
    forward pass is more than the sequence of its layers, such as a transformer's, is one stage.

    It needs the memory of one network per task at once: with 40 tasks 40 encoders and the activations of all
    of them. On the embedded digits with four tasks, training `small` took 6.5 times as long as in `mtl`. What
    weightings see as shared are all encoders and units, as in LibMTL. The features of two tasks are different
    ones, so weightings that compare gradients of features are left out.

    Source: Misra et al., CVPR 2016, arXiv:1604.03539, Eq. 1; places and initial values as in sections 4 and
    5; one weight per channel also in the code of Vandenhende et al., TPAMI 2021, arXiv:2004.13379

    Departs from the paper: all networks start untrained, not from networks trained on one task each; units
    have the learning rate of the network, not 100 to 1000 times as much, since Adam's steps do not depend on
    the size of gradients; with K tasks, the 0.1 of the other task is split among K - 1.

    Attributes:
        own: initial weight of a task's own activations; those of the others share the rest evenly.
    """

    own: Annotated[float, Gt(0), Le(1)] = 0.9
    version: ClassVar[int] = 1

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Return all tasks as one group."""
        return (tasks,)

    def explain_misfit(self, backbone: Backbone, weighting: Weighting, kinds: frozenset[Kind]) -> str | None:
        """Return why it does not fit: its heads are linear, and its tasks have no features in common."""
        if dense := sorted(kinds & DENSE):
            return f"cannot work with dense tasks ({', '.join(dense)})"
        if getattr(weighting, "needs_shared_features", False):
            return (
                "has features of its own for every task, and the weighting compares gradients of shared ones"
            )
        return None

    def build(
        self, backbone: Backbone, tasks: Sequence[Task], shape: Shape, pieces: int, precision: Precision
    ) -> MultiTaskNet:
        """Return the network for classification tasks."""
        return StitchedNet(backbone, tasks, shape, pieces, precision, self.own)


class StitchedNet(MultiTaskNet):
    """An encoder, a representation and a head per task, with units between them."""

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[Task],
        shape: Shape,
        pieces: int,
        precision: Precision,
        own: float,
    ) -> None:
        super().__init__(backbone, tasks, shape, pieces, precision)
        others = [backbone.build(shape)[0] for _ in tasks[1:]]
        self.encoder = StitchedEncoders([self.encoder, *others], shape, own)
        self.representation = nn.Sequential(
            GroupedLinear(len(tasks), self.width, REPRESENTATION),
            nn.ELU(),
            nn.Unflatten(1, (len(tasks), REPRESENTATION)),
            CrossStitchUnit(len(tasks), REPRESENTATION, own),
            nn.Flatten(),
        )

    def apply_heads(self, features: Float[Tensor, "b td"], images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return the tasks' outputs [b o], given the tasks' representations, one after the other."""
        heads = cast("nn.Linear", self.heads)
        by_task = features.unflatten(1, (-1, REPRESENTATION))
        read = by_task.index_select(1, number_owners(self._outputs).to(features.device))
        outputs = torch.einsum("bod,od->bo", read, heads.weight) + heads.bias
        return list(outputs.split(self._outputs, dim=1))


class StitchedEncoders(nn.Module):
    """Encoders of one architecture, with a cross-stitch unit after every stage."""

    def __init__(self, encoders: Sequence[nn.Module], shape: Shape, own: float) -> None:
        super().__init__()
        split = [split_at_poolings(encoder, shape) for encoder in encoders]
        self.stages = nn.ModuleList(
            nn.ModuleList(stage) for stage in zip(*(stages for stages, _ in split), strict=True)
        )
        self.units = nn.ModuleList(
            CrossStitchUnit(len(encoders), channels, own) for channels in count_channels(split[0][0], shape)
        )
        self.tails = nn.ModuleList(tail for _, tail in split)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b td"]:
        """Return the features of all encoders, one encoder after the other."""
        own = [images] * len(self.tails)
        for stage, unit in zip(self.stages, self.units, strict=True):
            made = [layers(each) for layers, each in zip(cast("nn.ModuleList", stage), own, strict=True)]
            # A copy of each: a stage may begin with an operation in place.
            own = [each.clone() for each in unit(torch.stack(made, dim=1)).unbind(1)]
        ends = [average_map(tail(each)) for tail, each in zip(self.tails, own, strict=True)]
        return torch.cat(ends, dim=1)


class CrossStitchUnit(nn.Module):
    """Learned linear combinations of the activations of several networks, channel by channel.

    Attributes:
        weights: [task, task it reads, channel].
    """

    def __init__(self, tasks: int, channels: int, own: float) -> None:
        super().__init__()
        others = (1 - own) / (tasks - 1) if tasks > 1 else 0.0
        start = torch.full((tasks, tasks), others).fill_diagonal_(own if tasks > 1 else 1.0)
        self.weights = nn.Parameter(start[:, :, None].repeat(1, 1, channels))

    def forward(self, activations: Float[Tensor, "b t c ..."]) -> Float[Tensor, "b t c ..."]:
        """Return the input of the next stage of every task's network."""
        return torch.einsum("toc,boc...->btc...", self.weights, activations)
