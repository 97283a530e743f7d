"""D-VAE: reconstruct the images through a bottleneck that is too narrow for the noise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, NamedTuple, cast

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from bench import torchvision_import
from bench.api import Task
from bench.defenses.base import NoOp
from bench.errors import BenchError
from bench.memory import allocate_zeros
from bench.tasks.classification import Classification, require_classification
from bench.training.loaders import iterate_batches
from bench.values import MISSING, Batch, Progress, Split, ignore_progress

_KL_WEIGHT: Final = 0.01
_CLIP_NORM: Final = 5.0

_FREE_SHARE: Final = 11 / 60
"""Share of the epochs in which the predicted noise may have any size."""

_NOISE_SIZE: Final = 0.002
"""Mean square of the predicted noise, in [0, 1] pixel units, above which it is penalized after that."""


@dataclass(frozen=True)
class DVAE(NoOp):
    """D-VAE: a variational autoencoder whose bottleneck removes the noise, which a second decoder predicts.

    The second decoder predicts it from the latent code and an embedding of the labels. Stage 1 trains with a
    narrow bottleneck and subtracts the predicted noise; stage 2 trains a new model with a wider bottleneck on
    the result, subtracts again and returns the reconstruction of these images.

    Source: Yu et al., ICML 2024, arXiv:2405.01460, as its public code (yuyi-sd/D-VAE) has it

    Departs from the paper: the embeddings of a sample's labels are averaged over its tasks. The encoder
    halves images once, whatever their size; the paper's is deeper for 224 pixels. The last, smaller batch is
    trained on too; values are rounded, not truncated.

    Attributes:
        width: channels at the full resolution; half of it has twice as many.
        latent: channels of the latent code, at half the resolution.
        epochs: passes over the images, in each of the stages.
        learning_rate: Adam's at the start of a cosine schedule.
        batch: images per step.
        first_rate: nats per position of the latent code that are free in stage 1.
        second_rate: the same in stage 2.
    """

    width: Annotated[int, Ge(2)] = 64
    latent: Annotated[int, Ge(1)] = 256
    epochs: Annotated[int, Ge(1)] = 60
    learning_rate: Annotated[float, Gt(0)] = 5e-3
    batch: Annotated[int, Ge(1)] = 128
    first_rate: Annotated[float, Gt(0)] = 1.0
    second_rate: Annotated[float, Gt(0)] = 3.0
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False
    learned: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {"width": 4, "latent": 8, "epochs": 2}

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the reconstructions of stage 2.

        Raises:
            BenchError: when a task is no classification, or the training diverges.
        """
        known = require_classification(tasks, "defense 'd-vae'")

        def first(done: int) -> None:
            progress("purifying epoch", done, 2 * self.epochs)

        def second(done: int) -> None:
            progress("purifying epoch", self.epochs + done, 2 * self.epochs)

        model = self._train(released, known, self.first_rate, device, first)
        rough = replace(released, images=self._clean(released, known, model, device, model.subtract))
        model = self._train(rough, known, self.second_rate, device, second)
        return self._clean(rough, known, model, device, model.reconstruct)

    def _train(
        self,
        split: Split,
        tasks: Sequence[Classification],
        rate: float,
        device: torch.device,
        report_epoch: Callable[[int], None],
    ) -> "DisentanglingVAE":
        _, channels, height, width = split.images.shape
        classes = sum(task.classes for task in tasks)
        model = DisentanglingVAE((channels, height, width), classes, self.width, self.latent).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        for epoch in range(self.epochs):
            report_epoch(epoch)
            for batch in iterate_batches(split, self.batch, device, shuffle=True):
                decoded = model(batch.images, joint_labels(batch, tasks))
                loss = reconstruction_loss(decoded, batch.images) + _KL_WEIGHT * decoded.rate.clamp(min=rate)
                if epoch >= round(_FREE_SHARE * self.epochs):
                    loss = loss + decoded.noise.square().mean().clamp(min=_NOISE_SIZE)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
                optimizer.step()
            schedule.step()
        report_epoch(self.epochs)
        return model.eval()

    @torch.no_grad()
    def _clean(
        self,
        split: Split,
        tasks: Sequence[Classification],
        model: "DisentanglingVAE",
        device: torch.device,
        change: Callable[[Tensor, Tensor], Tensor],
    ) -> UInt8[Tensor, "n c h w"]:
        cleaned = allocate_zeros(split.images.shape, torch.uint8)
        for batch in iterate_batches(split, self.batch, device, shuffle=False):
            images = change(batch.images, joint_labels(batch, tasks))
            if not images.isfinite().all():
                raise BenchError("defense 'd-vae' diverged on the released images; lower its learning_rate")
            cleaned[batch.index] = (images * 255).round().to(torch.uint8).cpu()
        return cleaned


class Decoded(NamedTuple):
    """The model's outputs for images.

    Attributes:
        images: their reconstruction, in [0, 1].
        noise: the predicted noise.
        rate: nats per position of the latent code, a mean over the batch.
    """

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    rate: Float[Tensor, ""]


class DisentanglingVAE(nn.Module):
    """A convolutional encoder at half the resolution, and two decoders: of the image and of the noise."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int, latent: int) -> None:
        """Build it for images [c h w] of this shape and the total number of classes of all tasks."""
        super().__init__()
        channels, self._height, self._width = shape
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            torchvision_import.models.resnet.BasicBlock(width, width),
            torchvision_import.models.resnet.BasicBlock(width, width),
            torchvision_import.models.resnet.BasicBlock(width, 2 * width, 2, _halving(width)),
        )
        self.mean = nn.Conv2d(2 * width, latent, 1)
        self.log_variance = nn.Conv2d(2 * width, latent, 1)
        self.widen = nn.Conv2d(latent, 2 * width, 1)
        self.decoder = nn.Sequential(*_decoder_layers(width, channels), nn.Sigmoid())
        self.noise_decoder = nn.Sequential(*_decoder_layers(width, channels))
        self._code = (2 * width, (self._height + 1) // 2, (self._width + 1) // 2)
        # Row 0 stands for a missing label.
        self.labels = nn.EmbeddingBag(1 + classes, torch.Size(self._code).numel(), mode="mean", padding_idx=0)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, "b t"]) -> Decoded:
        """Return reconstruction, noise and rate, at a latent code that is drawn."""
        features = self.encoder(images)
        mean, log_variance = self.mean(features), self.log_variance(features)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        code = self.widen(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        embedded = self.labels(labels).view(len(labels), *self._code)
        noise = self._cut(self.noise_decoder(code + embedded))
        return Decoded(self._cut(self.decoder(code)), noise, divergence.mean())

    def _cut(self, images: Tensor) -> Tensor:
        """Cut off what is decoded beyond an odd height or width."""
        return images[..., : self._height, : self._width]

    def subtract(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images minus the predicted noise."""
        return (images - cast("Decoded", self(images, labels)).noise).clamp(0, 1)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the reconstruction of the images minus that noise."""
        return cast("Decoded", self(self.subtract(images, labels), labels)).images


def _halving(width: int) -> nn.Module:
    return nn.Sequential(
        torchvision_import.models.resnet.conv1x1(width, 2 * width, 2), nn.BatchNorm2d(2 * width)
    )


def _decoder_layers(width: int, channels: int) -> Iterator[nn.Module]:
    """Yield the layers from [b 2·width h/2 w/2] to [b c h w]."""
    yield nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
    yield nn.Conv2d(width, width, 3, padding=1)
    yield nn.InstanceNorm2d(width)
    yield nn.ReLU(inplace=True)
    yield nn.Conv2d(width, width // 2, 3, padding=1)
    yield nn.InstanceNorm2d(width // 2)
    yield nn.ReLU(inplace=True)
    yield nn.Conv2d(width // 2, channels, 3, padding=1)


def joint_labels(batch: Batch, tasks: Sequence[Classification]) -> Int64[Tensor, "b t"]:
    """Return every label's number among those of all tasks, from 1 on; 0 where it is missing."""
    columns, first = [], 1
    for task in tasks:
        labels = batch.targets[task.name]
        columns.append(torch.where(labels == MISSING, 0, labels + first))
        first += task.classes
    return torch.stack(columns, dim=1)


def reconstruction_loss(decoded: Decoded, images: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the squared error of the reconstruction, without and with the predicted noise."""
    with_noise = (decoded.images + decoded.noise).clamp(0, 1)
    return functional.mse_loss(decoded.images, images) + functional.mse_loss(with_noise, images)
