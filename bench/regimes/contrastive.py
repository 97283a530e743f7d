"""The encoder learns from the released images without labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from bench import torchvision_import
from bench.api import Task
from bench.regimes.side_by_side import average_map
from bench.training.augmentation import cropped_shape
from bench.training.loaders import ResumableLoader
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, Recipe, Shape, Split


@dataclass(frozen=True)
class Contrastive:
    """SimCLR: one network learns from the images without labels; then heads are trained on what it learned.

    Two random views of every image are encoded, and each has to find the other among all views of the batch.
    What is shared under ``mtl`` is learned so, below a projection head that is thrown away. It is frozen, and
    the heads are trained on the same images with their labels: linear ones, or decoders of dense tasks.
    Noise that only a label explains has nothing to do in the first part. If the defense has clean originals,
    the first part learns from these. Defenses that change batches change those of the heads.

    A view is a random part of the image, scaled to the size that networks see, with other brightness,
    contrast, saturation and hue, sometimes gray. It is mirrored only where the dataset's labels allow it:
    mirrored digits are other digits, and a network that takes them for the same cannot tell left from right.
    On the embedded digits it learns next to nothing (0.11 of ten classes after 30 passes over 1000 clean
    images); a guess: every image has colors of its own, which are enough to tell it from the others.

    Source: Chen et al., ICML 2020, arXiv:2002.05709 (SimCLR), Alg. 1; temperature, strength of color and no
    blur as for CIFAR-10, appendix B.9

    Departs from the paper: Adam with the recipe's learning rate in place of LARS, without a warm-up; the
    recipe's epochs and batches in place of 1000 and 1024; the network ends in the layer of 256 features that
    every network of the benchmark has; the order of the color operations is drawn once per batch; color
    operations need three channels, and other images change in brightness and contrast only.

    Attributes:
        epochs: passes over the images without labels; None: as many as the recipe has for the heads.
        batch: images per step without labels, each of which has two views; None: as many as the recipe has.
        temperature: divides the similarity of two views.
        projection: outputs of the projection head.
    """

    epochs: Annotated[int, Ge(1)] | None = None
    batch: Annotated[int, Ge(2)] | None = None
    temperature: Annotated[float, Gt(0)] = 0.5
    projection: Annotated[int, Ge(1)] = 128
    version: ClassVar[int] = 1

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Return all tasks as one group."""
        return (tasks,)

    def pretraining_epochs(self, recipe: Recipe) -> int:
        """Return the number of passes without labels."""
        return recipe.epochs if self.epochs is None else self.epochs

    def pretrain(
        self,
        net: nn.Module,
        images: UInt8[Tensor, "n c h w"],
        recipe: Recipe,
        augmentation: Augmentation,
        device: torch.device,
    ) -> Iterator[int]:
        """Train what is shared, yielding the number of the pass; the learning rate falls as a cosine does."""
        shared = cast("MultiTaskNet", net)
        channels, height, width = images.shape[1:]
        views = build_views(cropped_shape((channels, height, width), augmentation), augmentation.flip)
        head = _ProjectionHead(_features_width(shared, images[:2], device), self.projection).to(device)
        optimizer = torch.optim.Adam(
            [*shared.shared_parameters(), *head.parameters()],
            lr=recipe.learning_rate,
            weight_decay=WEIGHT_DECAY,
        )
        size = recipe.batch if self.batch is None else self.batch
        loader = ResumableLoader(Split(images, {}), size, device, shuffle=True)
        batches, epochs = loader.endless(), self.pretraining_epochs(recipe)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
        for epoch in range(1, epochs + 1):
            net.train()
            for batch in islice(batches, len(loader)):
                both = torch.cat([views(batch.images), views(batch.images)])
                loss = nt_xent(head(average_map(shared.encode(both))), self.temperature)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
            yield epoch


WEIGHT_DECAY = 1e-6
"""That of Chen et al., section 2.3."""


class _ProjectionHead(nn.Sequential):
    """Two layers, as Chen et al. have in section 2.1: what contrast needs, heads of tasks need not."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs))


def nt_xent(projected: Float[Tensor, "b2 d"], temperature: float) -> Float[Tensor, ""]:
    """Return the normalized, temperature-scaled cross entropy of views; row i and row i + b are one image.

    Source: Chen et al., ICML 2020, arXiv:2002.05709, Eq. 1, the mean over all views
    """
    directions = functional.normalize(projected, dim=1)
    similarities = directions @ directions.T / temperature
    itself = torch.eye(len(projected), dtype=torch.bool, device=projected.device)
    partners = torch.arange(len(projected), device=projected.device).roll(len(projected) // 2)
    return functional.cross_entropy(similarities.masked_fill(itself, -torch.inf), partners)


def build_views(shape: Shape, flip: bool) -> nn.Module:
    """Return a module that draws a random view [b c h w] of every image of a batch, of this shape.

    Source: Chen et al., ICML 2020, arXiv:2002.05709, appendix A, with half of the color's strength (B.9)
    """
    torchvision_import.import_torchvision()  # kornia imports torchvision
    from kornia import augmentation as kornia

    operations = [kornia.RandomResizedCrop(shape[1:], scale=(0.08, 1.0), cropping_mode="resample")]
    if flip:
        operations.append(kornia.RandomHorizontalFlip())
    if shape[0] == 3:
        operations += [kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), kornia.RandomGrayscale(p=0.2)]
    else:
        operations += [kornia.RandomBrightness((0.6, 1.4), p=0.8), kornia.RandomContrast((0.6, 1.4), p=0.8)]
    return nn.Sequential(*operations)


@torch.no_grad()
def _features_width(net: MultiTaskNet, images: Tensor, device: torch.device) -> int:
    net.eval()
    return average_map(net.encode(images.to(device).float() / 255)).shape[1]
