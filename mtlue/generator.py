"""MTL-UE's generator: an image and its labels in, δ out."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from baselines.crafting.lift import pattern_per_pixel
from bench import torchvision_import
from bench.api import Task
from bench.values import Targets

Inputs = Literal["both", "embeddings", "image"]
"""The decoder's input: class embeddings, features of the image, or both."""

Reduction = Literal[2, 8]
"""How much smaller features and class embeddings are than the image."""


class ClassEmbeddings(nn.Module):
    """One spatial embedding [e s s'] for every class of a task.

    A missing label gets the mean of the task's embeddings. A label map is resized to the nearest labels, and
    every pixel gets the value of its own class's embedding there.
    """

    def __init__(self, classes: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self._shape = (channels, height, width)
        self.weight = nn.Parameter(torch.randn(classes, channels * height * width))

    def forward(self, labels: Int64[Tensor, "b ..."]) -> Float[Tensor, "b e s s2"]:
        """Return the embeddings of labels [b], or of label maps [b h w]."""
        # Label −1, a missing one, selects the last row.
        rows = torch.cat([self.weight, self.weight.mean(0, keepdim=True)])
        if labels.ndim == 1:
            return rows[labels].view(len(labels), *self._shape)
        return pattern_per_pixel(
            rows.view(len(rows), *self._shape), _resize_nearest(labels[:, None], self._shape)[:, 0]
        )

    def rows(self) -> Float[Tensor, "k d"]:
        """Return the class embeddings, flattened."""
        return self.weight


class MapEmbedding(nn.Module):
    """A small convolutional embedding of a map of numbers, such as depth; missing pixels are marked."""

    def __init__(self, inputs: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self._shape = (channels, height, width)
        self._layers = nn.Sequential(
            nn.Conv2d(inputs + 1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self._mean: Tensor | None = None

    def forward(self, target: Float[Tensor, "b i h w"]) -> Float[Tensor, "b e s s2"]:
        """Return the embeddings of maps, which are resized to the nearest values."""
        values = _resize_nearest(target, self._shape)
        known = ~values.isnan().any(1, keepdim=True)
        embedded: Tensor = self._layers(torch.cat([values.nan_to_num() * known, known.float()], dim=1))
        self._mean = embedded.mean(0) if self.training else None
        return embedded

    def rows(self) -> Float[Tensor, "1 d"]:
        """Return the mean embedding of the last batch, flattened.

        Raises:
            RuntimeError: when there was no batch in training mode.
        """
        if self._mean is None:
            raise RuntimeError("a map embedding has no mean before its first batch in training mode")
        return self._mean.flatten()[None]


def _resize_nearest(maps: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return maps [b c h w] at the embedding's resolution, without interpolating values."""
    return functional.interpolate(maps.float(), size=shape[1:], mode="nearest-exact").to(maps.dtype)


class Generator(nn.Module):
    """Encoder stem, label embeddings, decoder; δ is clamped to the budget.

    The stem is the first half of a ResNet-18 (3×3 stride-1 convolution, two blocks of ``width`` and two of
    2·``width`` channels, the latter at half resolution; with a ``reduction`` of 8, ResNet-18's own 7×7
    stride-2 convolution and max-pooling before them). The decoder gets the embeddings of all tasks and the
    stem's features, concatenated, and enlarges them to the image's resolution. Label maps are embedded pixel
    by pixel (`ClassEmbeddings`), maps of depth or normals by convolutions (`MapEmbedding`).

    Source: Yu et al., ICML 2025 (MTL-UE), section 4 and Figure 2; it mentions
    embedding modules for dense tasks; their layers are ours

    Args:
        tasks: whose labels are embedded.
        channels: of the images.
        height: of the images.
        width: of the images.
        epsilon: the budget in [0, 1] pixel units.
        base_width: channels of the stem's first block; 64 in the paper.
        embedding_channels: channels of one class embedding; 16 in the paper.
        inputs: the decoder's input; the values other than ``both`` are ablations.
        reduction: how much smaller features and embeddings are than the image: 2, or 8 for large images, as
            the public code has it for ChestX-ray14.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        channels: int,
        height: int,
        width: int,
        *,
        epsilon: float,
        base_width: int,
        embedding_channels: int,
        inputs: Inputs = "both",
        reduction: Reduction = 2,
    ) -> None:
        super().__init__()
        self._names = [] if inputs == "image" else [task.name for task in tasks]
        self._epsilon = epsilon
        self.stem = None if inputs == "embeddings" else _stem(channels, base_width, reduction)
        rows, columns = -(-height // reduction), -(-width // reduction)
        self.embeddings = nn.ModuleList(
            _embedding(task, embedding_channels, rows, columns) for task in tasks if task.name in self._names
        )
        joined = 2 * base_width * (self.stem is not None) + embedding_channels * len(self._names)
        self.decoder = _build_decoder(joined, base_width, channels, reduction)

    def forward(self, images: Float[Tensor, "b c h w"], targets: Targets) -> Float[Tensor, "b c h w"]:
        """Return δ for images and their labels."""
        inputs = [embed(targets[name]) for name, embed in zip(self._names, self.embeddings, strict=True)]
        if self.stem is not None:
            inputs.append(self.stem(images))
        decoded = self.decoder(torch.cat(inputs, dim=1))
        # The decoder multiplies the stem's resolution: other sides become too long.
        height, width = images.shape[2:]
        clamped: Tensor = decoded[:, :, :height, :width].clamp(-self._epsilon, self._epsilon)
        return clamped

    def class_embeddings(self) -> list[Float[Tensor, "_ d"]]:
        """Return the input of the regularizers, one matrix per task; none without embeddings.

        It has the class embeddings, flattened, or the mean of a map's embeddings over the last batch.
        """
        return [embed.rows() for embed in self.embeddings]  # type: ignore[operator]


def _embedding(task: Task, channels: int, height: int, width: int) -> nn.Module:
    if task.kind in ("classification", "segmentation"):
        return ClassEmbeddings(task.classes, channels, height, width)
    return MapEmbedding(task.outputs, channels, height, width)


def _stem(channels: int, width: int, reduction: Reduction) -> nn.Sequential:
    first: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    if reduction == 8:
        first = [nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)]
    shrink = [nn.MaxPool2d(3, stride=2, padding=1)] if reduction == 8 else []
    block = torchvision_import.models.resnet.BasicBlock
    halve = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride=2, bias=False), nn.BatchNorm2d(2 * width))
    return nn.Sequential(
        *first,
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *shrink,
        block(width, width),
        block(width, width),
        block(width, 2 * width, stride=2, downsample=halve),
        block(2 * width, 2 * width),
    )


def _build_decoder(joined: int, width: int, channels: int, reduction: Reduction) -> nn.Sequential:
    def last(inner: int, outer: int) -> nn.Module:
        """Return one of the two last layers, which enlarge if the reduction is 8."""
        if reduction == 8:
            return nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1)
        return nn.ConvTranspose2d(inner, outer, 3, padding=1)

    # As in the authors' architecture, there is no non-linearity between the first two layers, and instance
    # normalization has no affine parameters.
    return nn.Sequential(
        nn.ConvTranspose2d(joined, width, 4, stride=2, padding=1),
        nn.ConvTranspose2d(width, width, 3, padding=1),
        nn.InstanceNorm2d(width),
        nn.ReLU(inplace=True),
        last(width, width // 2),
        nn.InstanceNorm2d(width // 2),
        nn.ReLU(inplace=True),
        last(width // 2, channels),
    )
