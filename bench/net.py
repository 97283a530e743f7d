"""MultiTaskNet: one encoder, one shared representation, one head per task."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from bench.api import Backbone, Task

REPRESENTATION = 256
"""Width of the shared representation (Yu et al., ICML 2025, appendix)."""


class MultiTaskNet(nn.Module):
    """An encoder, a linear layer with ELU as shared representation, and one linear head per task.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1 and appendix: ResNet-18 → 256 → ELU → heads.
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], channels: int) -> None:
        super().__init__()
        encoder, width = backbone.build(channels)
        self.encoder = encoder
        self.representation = nn.Sequential(nn.Linear(width, REPRESENTATION), nn.ELU())
        self.heads = nn.ModuleList(nn.Linear(REPRESENTATION, task.outputs) for task in tasks)

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return one output [b o] per task, in the order of the tasks."""
        shared = self.represent(images)
        return [head(shared) for head in self.heads]

    def represent(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the representation all heads read."""
        shared: Tensor = self.representation(self.encoder(images))
        return shared

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters every task depends on: all but the heads'."""
        return [*self.encoder.parameters(), *self.representation.parameters()]
