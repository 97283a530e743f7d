"""MultiTaskNet: one encoder, one shared representation, one head per task."""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bench.api import DENSE, Backbone, DenseBackbone, Shape, Task
from bench.errors import BenchError

REPRESENTATION = 256
"""Width of the shared representation (Yu et al., ICML 2025, appendix)."""


class MultiTaskNet(nn.Module):
    """An encoder and one head per task.

    Classification tasks read a shared representation: the encoder's features (averaged over the image, if it
    gives a map), a linear layer and ELU; their heads are linear. Every dense task has a decoder of the
    encoder's map, whose output is scaled to the image's size.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1 and appendix: ResNet-18 → 256 → ELU → heads; dense:
    one decoder per task on a shared dilated encoder
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], shape: Shape) -> None:
        """Build a network for images [c h w] of this shape.

        Raises:
            BenchError: when a task is dense and the backbone is not, or for a shape the backbone cannot take.
        """
        super().__init__()
        dense = [task.name for task in tasks if task.kind in DENSE]
        if dense and not backbone.dense:
            raise BenchError(f"{backbone} gives no map of features, which the dense task {dense[0]!r} needs")
        encoder, width = backbone.build(shape)
        self.encoder = encoder
        self.representation: nn.Module = nn.Identity()
        if len(dense) < len(tasks):
            self.representation = nn.Sequential(nn.Linear(width, REPRESENTATION), nn.ELU())
        self.heads = nn.ModuleList(
            cast("DenseBackbone", backbone).decoder(width, task.outputs)
            if task.kind in DENSE
            else nn.Linear(REPRESENTATION, task.outputs)
            for task in tasks
        )
        self._dense = [task.kind in DENSE for task in tasks]

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return one output per task, [b o] or [b o h w], in the order of the tasks."""
        return self.answer(self.encode(images), images.shape[2:])

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d ..."]:
        """Return what all heads read: the representation, or the encoder's map where a task is dense."""
        features: Tensor = self.encoder(images)
        return features if any(self._dense) else self._shared(features)

    def answer(self, features: Float[Tensor, "b d ..."], size: Sequence[int]) -> list[Tensor]:
        """Return the tasks' outputs for encoded images of this height and width."""
        if not any(self._dense):
            return [head(features) for head in self.heads]
        shared = None if all(self._dense) else self._shared(features)
        return [
            _scaled(head(features), size) if dense else head(shared)
            for head, dense in zip(self.heads, self._dense, strict=True)
        ]

    def represent(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the representation the heads of classification tasks read, or would read."""
        return self._shared(self.encoder(images))

    def _shared(self, features: Float[Tensor, "b d ..."]) -> Float[Tensor, "b d2"]:
        pooled = features.mean((2, 3)) if features.ndim == 4 else features
        shared: Tensor = self.representation(pooled)
        return shared

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters below what `encode` returns: all but the heads'."""
        own = [] if any(self._dense) else self.representation.parameters()
        return [*self.encoder.parameters(), *own]


def _scaled(maps: Float[Tensor, "b o h w"], size: Sequence[int]) -> Float[Tensor, "b o h2 w2"]:
    return functional.interpolate(maps, size=tuple(size), mode="bilinear")
