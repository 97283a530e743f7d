"""UEraser: strong augmentation, and of several versions of an image the one with the largest loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench import torchvision_import
from bench.api import Task
from bench.defenses.base import NoOp
from bench.training.loop import losses_of_outputs
from bench.values import Batch, Targets


@dataclass(frozen=True)
class UEraserLite(NoOp):
    """Fractal brightness and contrast, shuffled channels, and one operation of TrivialAugment, in every step.

    The operations are kornia's: fractals and channels are drawn per image, TrivialAugment's operation per
    batch, its strength per image. Some move the image's content, so that a dense task's map would no longer
    fit it.

    Source: Qin et al., 2023, arXiv:2303.15127 (UEraser-Lite)

    Departs from the public code: it adds JPEG against attacks that are known to need it; here a suite
    composes ``jpeg+ueraser-lite`` without knowing the attack.

    Attributes:
        probability: of a change of brightness, and of one of contrast.
    """

    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    probability: Annotated[float, Ge(0), Le(1)] = 0.5

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch with changed images."""
        return replace(batch, images=self._change(batch.images))

    @torch.no_grad()
    def _change(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the images, changed at random."""
        torchvision_import.import_torchvision()  # kornia imports torchvision
        from kornia.augmentation import RandomChannelShuffle, RandomPlasmaBrightness, RandomPlasmaContrast
        from kornia.augmentation.auto import TrivialAugment

        operations = nn.Sequential(
            RandomPlasmaBrightness(roughness=(0.3, 0.7), intensity=(0.5, 1.0), p=self.probability),
            RandomPlasmaContrast(roughness=(0.3, 0.7), p=self.probability),
            RandomChannelShuffle(p=0.5),
            TrivialAugment(),
        )
        changed: Tensor = operations.to(images.device)(images)
        return changed.clamp(0, 1)


@dataclass(frozen=True)
class UEraser(UEraserLite):
    """UEraser-Lite several times early in training, keeping of every image the version with the largest loss.

    The loss is the mean over the tasks, whatever their weights. It is computed in training mode, on a copy of
    the network's running statistics.

    Source: Qin et al., 2023, arXiv:2303.15127 (UEraser: five repeats in the first 50 of 300 epochs)

    Departs from the public code: the chosen versions are one training batch, with its own batch statistics;
    no JPEG is added against attacks that are known to need it.

    Attributes:
        repeats: versions of every image (K).
        share: of the epochs, from the first on, with several versions.
    """

    version: ClassVar[int] = 1

    repeats: Annotated[int, Ge(1)] = 5
    share: Annotated[float, Ge(0), Le(1)] = 0.1666

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch with changed images."""
        images = self._change(batch.images)
        if batch.progress < self.share:
            worst = _sample_losses(net, tasks, batch, images)
            for _ in range(self.repeats - 1):
                others = self._change(batch.images)
                losses = _sample_losses(net, tasks, batch, others)
                worse = losses > worst
                images = torch.where(worse[:, None, None, None], others, images)
                worst = torch.where(worse, losses, worst)
        return replace(batch, images=images)


@dataclass(frozen=True)
class UEraserMax(UEraser):
    """UEraser with several versions of every image until the end of training.

    Source: Qin et al., 2023, arXiv:2303.15127 (UEraser-Max)

    Attributes:
        share: of the epochs, from the first on, with several versions.
    """

    version: ClassVar[int] = 1

    share: Annotated[float, Ge(0), Le(1)] = 1.0


@torch.no_grad()
def _sample_losses(
    net: nn.Module, tasks: Sequence[Task], batch: Batch, images: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Return every sample's loss, the mean over the tasks; the network is not changed."""
    copies = {name: buffer.clone() for name, buffer in net.named_buffers()}
    outputs = functional_call(net, copies, (images,))

    def mean_loss(outputs: Sequence[Tensor], targets: Targets) -> Tensor:
        """Return the loss of one sample."""
        alone = {name: target[None] for name, target in targets.items()}
        return losses_of_outputs([out[None] for out in outputs], tasks, alone).mean()

    losses = vmap(mean_loss)(outputs, dict(batch.targets))
    if batch.mixed is None:
        return losses
    return batch.share * losses + (1 - batch.share) * vmap(mean_loss)(outputs, dict(batch.mixed))
