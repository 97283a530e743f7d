"""A small network with attention for CPUs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from bench.backbones.small import GRID, GridMeans
from bench.backbones.small_residual import GROUP
from bench.backbones.surgery import store_channels_last
from bench.values import Shape

SIDE = 8
"""Tokens per side of the image, whatever its size."""

HEADS = 4
"""Attention heads of every layer; the number of features of a token is a multiple of it."""


@dataclass(frozen=True)
class SmallAttention:
    """A compact convolutional transformer: three convolutions make 8×8 tokens, which two layers relate.

    A victim unlike a surrogate `small`: self-attention, layer norm, group norm and GELU. It takes images of
    any size.

    Source: Hassani et al., 2021, arXiv:2104.05704 (CCT)

    Departs from the paper: three convolutions, the first with stride 2, each with group norm and GELU, in
    place of one or two with ReLU and pooling (two of these, without a norm, learned nothing of the embedded
    digits in eight epochs); images of any size give 8×8 tokens, the means of the cells of a grid; the
    features are the tokens' means on a 4×4 grid instead of one weighted mean of all tokens, because tasks
    such as *left digit* need positions; no dropout and no stochastic depth.

    Attributes:
        width: features of a token in multiples of four.
        layers: transformer layers.
    """

    width: Annotated[int, Ge(1)] = 12
    layers: Annotated[int, Ge(1)] = 2
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b 64·width] for images of any size, and its width."""
        features = HEADS * self.width
        encoder = nn.Sequential(
            *_normalized_convolution(shape[0], features // 2, stride=2),
            *_normalized_convolution(features // 2, features),
            nn.MaxPool2d(2, ceil_mode=True),
            *_normalized_convolution(features, features),
            GridMeans(SIDE),
            _Transformer(features, self.layers),
            GridMeans(GRID),
            nn.Flatten(),
        )
        store_channels_last(encoder)
        return encoder, features * GRID**2


def _normalized_convolution(channels: int, width: int, stride: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    yield nn.GroupNorm(width // GROUP, width)
    yield nn.GELU()


class _Transformer(nn.Module):
    """Layers of self-attention between the cells of a map, with a learned vector for every position."""

    def __init__(self, features: int, layers: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(SIDE**2, features))
        self.layers = nn.Sequential(*(_Layer(features) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)

    def forward(self, maps: Float[Tensor, "b d s s"]) -> Float[Tensor, "b d s s"]:
        """Return the map after the layers."""
        tokens = maps.flatten(2).transpose(1, 2) + self.positions
        related: Tensor = self.norm(self.layers(tokens))
        grid: Tensor = related.transpose(1, 2).unflatten(2, (SIDE, SIDE))
        return grid


class _Layer(nn.Module):
    """A pre-norm transformer layer: attention, then two linear layers with GELU, both added to the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.query_key_value = nn.Linear(features, 3 * features)
        self.projection = nn.Linear(features, features)
        self.linear = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, 2 * features),
            nn.GELU(),
            nn.Linear(2 * features, features),
        )

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the tokens after the layer."""
        tokens = tokens + self.projection(self._attend(self.attention_norm(tokens)))
        related: Tensor = tokens + self.linear(tokens)
        return related

    def _attend(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the values, weighted by attention; matrix products are deterministic on CUDA."""
        heads = self.query_key_value(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind()
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        attended: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return attended
