"""MTL-UE's generator: an image and its labels in, δ out."""

from bench import vision  # noqa: F401 - the door comes first

# isort: split
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from bench.api import Targets
from bench.tasks import Classification

Inputs = Literal["both", "embeddings", "image"]
"""What the decoder is given: class embeddings, features of the image, or both."""


class ClassEmbeddings(nn.Module):
    """One spatial embedding [e s s'] for every class of a task.

    A missing label gets the mean of the task's embeddings.
    """

    def __init__(self, classes: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self._shape = (channels, height, width)
        self.weight = nn.Parameter(torch.randn(classes, channels * height * width))

    def forward(self, labels: Tensor) -> Tensor:
        """Return the embeddings [b e s s'] of labels [b]."""
        # The row after the last class answers to label −1.
        rows = torch.cat([self.weight, self.weight.mean(0, keepdim=True)])
        return rows[labels].view(len(labels), *self._shape)


class Generator(nn.Module):
    """Encoder stem, label embeddings, decoder; δ is clamped to the budget.

    The stem is the first half of a ResNet-18 (3×3 stride-1 convolution, two blocks of ``width`` and two of
    2·``width`` channels, the latter at half resolution). The decoder takes the embeddings of all tasks and
    the stem's features, side by side, back to the image's resolution.

    Source: Yu et al., ICML 2025 (MTL-UE), section 4 and Figure 2

    Args:
        tasks: whose labels are embedded.
        channels: of the images.
        height: of the images.
        width: of the images.
        epsilon: the budget in [0, 1] pixel units.
        base_width: channels of the stem's first block; 64 in the paper.
        embedding_channels: channels of one class embedding; 16 in the paper.
        inputs: what the decoder is given; anything but ``both`` is an ablation.
    """

    def __init__(
        self,
        tasks: Sequence[Classification],
        channels: int,
        height: int,
        width: int,
        *,
        epsilon: float,
        base_width: int,
        embedding_channels: int,
        inputs: Inputs = "both",
    ) -> None:
        super().__init__()
        self._names = [] if inputs == "image" else [task.name for task in tasks]
        self._epsilon = epsilon
        self.stem = None if inputs == "embeddings" else _stem(channels, base_width)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        self.embeddings = nn.ModuleList(
            ClassEmbeddings(task.classes, embedding_channels, rows, columns)
            for task in tasks
            if task.name in self._names
        )
        joined = 2 * base_width * (self.stem is not None) + embedding_channels * len(self._names)
        self.decoder = _decoder(joined, base_width, channels)

    def forward(self, images: Float[Tensor, "b c h w"], targets: Targets) -> Float[Tensor, "b c h w"]:
        """Return δ for images and their labels."""
        given = [embed(targets[name]) for name, embed in zip(self._names, self.embeddings, strict=True)]
        if self.stem is not None:
            given.append(self.stem(images))
        decoded = self.decoder(torch.cat(given, dim=1))
        # The decoder doubles the stem's resolution: an odd side comes out one pixel too long.
        height, width = images.shape[2:]
        clamped: Tensor = decoded[:, :, :height, :width].clamp(-self._epsilon, self._epsilon)
        return clamped

    def class_embeddings(self) -> list[Float[Tensor, "k d"]]:
        """Return every task's class embeddings, flattened: what the regularisers act on; none without any."""
        return [embed.weight for embed in self.embeddings]  # type: ignore[misc]


def _stem(channels: int, width: int) -> nn.Sequential:
    halve = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride=2, bias=False), nn.BatchNorm2d(2 * width))
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        BasicBlock(width, width),
        BasicBlock(width, width),
        BasicBlock(width, 2 * width, stride=2, downsample=halve),
        BasicBlock(2 * width, 2 * width),
    )


def _decoder(joined: int, width: int, channels: int) -> nn.Sequential:
    # No non-linearity stands between the first two layers, and instance normalisation has no affine
    # parameters: so it is in the authors' architecture.
    return nn.Sequential(
        nn.ConvTranspose2d(joined, width, 4, stride=2, padding=1),
        nn.ConvTranspose2d(width, width, 3, padding=1),
        nn.InstanceNorm2d(width),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(width, width // 2, 3, padding=1),
        nn.InstanceNorm2d(width // 2),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(width // 2, channels, 3, padding=1),
    )
