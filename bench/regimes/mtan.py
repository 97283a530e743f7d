"""Multi-task attention network."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from operator import add
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bench.api import Backbone, Task, Weighting
from bench.errors import BenchError
from bench.regimes.side_by_side import average_map
from bench.regimes.stages import pair_layers
from bench.training.net import REPRESENTATION, MultiTaskNet, resize_to
from bench.values import DENSE, Kind, Precision, Shape


@dataclass(frozen=True)
class MTAN:
    """Multi-task attention network (MTAN): every task has masks on the features of one shared encoder.

    At each stage of the encoder a task's attention module reads the map of the stage before its last part and
    what the task has kept so far, and returns a mask of values between 0 and 1 for the stage's own map. The
    masked map goes through a convolution to the next stage; that of the last stage to the task's decoder. A
    classification task has its average, the representation of 256 features and a linear head.

    Stages are groups of layers (``layer1`` to ``layer4`` of a ResNet, after its stem), or pairs of
    convolutions after the first one (``dense-small`` has two).

    What weightings see as shared is the encoder, and as features the maps that attention modules read.
    Attention modules belong to the heads and get the gradient of their own task, as in LibMTL. These maps are
    copied into one row per image; a gradient weighting holds one such copy per task.

    Source: Liu, Johns and Davison, CVPR 2019, arXiv:1803.10704, section 3 and Eq. 1 and 2; on dilated
    ResNets: Lin & Zhang, JMLR 2023, arXiv:2203.14338 (LibMTL)

    Departs from the paper: the encoder is the backbone, not SegNet, so masks are on the encoder only, as in
    LibMTL; the hidden layer of an attention module is as wide as the first convolution of the stage's last
    part, a quarter of the map in ResNet-50. Departs from LibMTL: the convolution to the next stage is the
    paper's 3×3 one, not a residual block.
    """

    version: ClassVar[int] = 1

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Return all tasks as one group."""
        return (tasks,)

    def explain_misfit(self, backbone: Backbone, weighting: Weighting, kinds: frozenset[Kind]) -> str | None:
        """Return why it does not fit: masks are on maps."""
        return None if backbone.dense else "needs a backbone that returns a map of features"

    def build(
        self, backbone: Backbone, tasks: Sequence[Task], shape: Shape, pieces: int, precision: Precision
    ) -> MultiTaskNet:
        """Return the network for tasks of any kind on images of exactly this shape.

        Raises:
            BenchError: when the encoder has no stages that are found.
        """
        return AttentionNet(backbone, tasks, shape, pieces, precision)


class AttentionNet(MultiTaskNet):
    """A shared encoder, and a branch of attention modules with a head per task."""

    def __init__(
        self, backbone: Backbone, tasks: Sequence[Task], shape: Shape, pieces: int, precision: Precision
    ) -> None:
        super().__init__(backbone, tasks, shape, pieces, precision)
        decoders = iter(self.decoders)
        heads = [
            next(decoders) if task.kind in DENSE else _LabelHead(self.width, task.outputs) for task in tasks
        ]
        self.encoder = encoder = TappedEncoder(self.encoder, shape, str(backbone))
        self.branches = nn.ModuleList(AttentionBranch(encoder, head) for head in heads)
        self.decoders, self.representation, self.heads = nn.ModuleList(), nn.Identity(), nn.Identity()
        self._decoded = [True] * len(tasks)  # above the encoder nothing is shared

    def apply_heads(
        self, features: Float[Tensor, "b n 1 1"], images: Float[Tensor, "b c h w"]
    ) -> list[Tensor]:
        """Return the tasks' outputs, given what attention modules read, as `TappedEncoder` returns it."""
        outputs = [self._run_part(branch, features) for branch in self.branches]
        return [resize_to(output, images) if output.ndim == 4 else output for output in outputs]


class TappedEncoder(nn.Module):
    """An encoder that returns the maps of all stages: before their last part, and their own.

    Attributes:
        sizes: channels, height and width of these maps.
        hidden: channels inside the last part of every stage.
    """

    def __init__(self, encoder: nn.Module, shape: Shape, name: str) -> None:
        super().__init__()
        stem, stages = pair_layers(encoder, shape)
        if not stages:
            raise BenchError(
                f"regime 'mtan' finds no stages in the encoder of backbone {name}, which must be a sequence "
                "of convolutions or of groups of layers"
            )
        self.parts = nn.ModuleList([stem, *chain.from_iterable(stages)])
        with torch.no_grad():
            self.sizes = [tuple(each.shape[1:]) for each in self.eval()._maps(torch.zeros(1, *shape))]
        self.hidden = [
            next(layer.out_channels for layer in last.modules() if isinstance(layer, nn.Conv2d))
            for _, last in stages
        ]
        self.train()

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n 1 1"]:
        """Return all maps in one row per image, as maps of one pixel: heads that read them are not linear."""
        return torch.cat([each.flatten(1) for each in self._maps(images)], dim=1)[:, :, None, None]

    def _maps(self, activations: Tensor) -> list[Tensor]:
        maps = []
        for part in self.parts:
            activations = part(activations)
            maps.append(activations)
        return maps[1:]


class AttentionBranch(nn.Module):
    """A task's attention modules, and its head on the last masked map."""

    def __init__(self, encoder: TappedEncoder, head: nn.Module) -> None:
        super().__init__()
        self._sizes = encoder.sizes
        before, own = ([size[0] for size in encoder.sizes[start::2]] for start in (0, 1))
        kept = [0, *own[1:]]
        self.attention = nn.ModuleList(
            _attention(*widths) for widths in zip(map(add, before, kept), encoder.hidden, own, strict=True)
        )
        self.passes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, other, 3, padding=1), nn.BatchNorm2d(other), nn.ReLU())
            for one, other in pairwise(own)
        )
        self.head = head

    def forward(self, features: Float[Tensor, "b n 1 1"]) -> Tensor:
        """Return the head's output."""
        return self.head(self.attend(features))  # type: ignore[no-any-return]

    def attend(self, features: Float[Tensor, "b n 1 1"]) -> Float[Tensor, "b c h w"]:
        """Return the masked map of the last stage, given what the encoder returns."""
        rows = features.flatten(1).split([prod(size) for size in self._sizes], dim=1)
        maps = [row.unflatten(1, size) for row, size in zip(rows, self._sizes, strict=True)]
        kept = self.attention[0](maps[0]) * maps[1]
        for stage, carry in enumerate(self.passes, start=1):
            before, own = maps[2 * stage : 2 * stage + 2]
            kept = carry(kept)
            while kept.shape[2] > before.shape[2]:
                kept = functional.max_pool2d(kept, 2, ceil_mode=True)
            kept = self.attention[stage](torch.cat([before, kept], dim=1)) * own
        return cast("Tensor", kept)


def _attention(channels: int, hidden: int, outputs: int) -> nn.Module:
    """Return an attention module: two 1×1 convolutions with batch normalization, and a sigmoid."""
    return nn.Sequential(
        *(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()),
        *(nn.Conv2d(hidden, outputs, 1), nn.BatchNorm2d(outputs), nn.Sigmoid()),
    )


class _LabelHead(nn.Sequential):
    """The head of a classification task on a map."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(nn.Linear(width, REPRESENTATION), nn.ELU(), nn.Linear(REPRESENTATION, outputs))

    def forward(self, maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "b o"]:
        """Return the outputs."""
        outputs: Tensor = super().forward(average_map(maps))  # type: ignore[no-untyped-call]
        return outputs
