"""Encoders side by side, with a layer for each: one per expert, or one per task."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """One linear layer per group of features, initialized like `torch.nn.Linear`.

    The layers are one parameter, so that weightings which look at the last shared layer see all of them.
    """

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Linear(features, outputs) for _ in range(groups)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, inputs: Float[Tensor, "b gd"]) -> Float[Tensor, "b go"]:
        """Return the outputs of all groups, one group after the other."""
        groups, _, features = self.weight.shape
        rows = inputs.view(len(inputs), groups, features).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT).transpose(0, 1).flatten(1)


class SideBySide(nn.Module):
    """Encoders that see the same images; their features are joined, maps averaged over the image before."""

    def __init__(self, encoders: list[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ed"]:
        """Return the features of all encoders, one encoder after the other."""
        return torch.cat([average_map(encoder(images)) for encoder in self.encoders], dim=1)


def average_map(features: Float[Tensor, "b d ..."]) -> Float[Tensor, "b d"]:
    """Return features, averaged over the image if they are a map."""
    return features.mean((2, 3)) if features.ndim == 4 else features


def number_owners(outputs: Sequence[int]) -> Int64[Tensor, " o"]:
    """Return the number of the task that every output belongs to, given the tasks' numbers of outputs."""
    return torch.arange(len(outputs)).repeat_interleave(torch.tensor(outputs))
