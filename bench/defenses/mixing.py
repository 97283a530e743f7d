"""Mixing: train on two images at once, and on both labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from bench.api import Task
from bench.defenses.base import NoOp
from bench.values import DENSE, Batch, Targets


@dataclass(frozen=True)
class Mixing(NoOp):
    """The base of Mixup and CutMix: one λ ~ Beta(α, α) per batch, and a partner for each image.

    Attributes:
        alpha: parameter of λ ~ Beta(α, α), drawn once per batch; 1: uniform.
    """

    version: ClassVar[int] = 1

    alpha: Annotated[float, Gt(0)] = 1.0

    def _draw_partners(self, batch: Batch) -> tuple[float, Int64[Tensor, " b"]]:
        """Return λ and the partners' rows in the batch."""
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        return share, torch.randperm(len(batch.images), device=batch.images.device)


def _partner_targets(partner: Tensor, targets: Targets) -> dict[str, Tensor]:
    return {name: target[partner] for name, target in targets.items()}


@dataclass(frozen=True)
class Mixup(Mixing):
    """Each image is blended with another one, λ x + (1 - λ) x'; the loss is blended in the same way.

    This includes the loss of dense tasks, on both images' maps.

    Source: Zhang et al., ICLR 2018, arXiv:1710.09412
    """

    version: ClassVar[int] = 1

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the blended batch."""
        share, partner = self._draw_partners(batch)
        images = share * batch.images + (1 - share) * batch.images[partner]
        return replace(batch, images=images, mixed=_partner_targets(partner, batch.targets), share=share)


@dataclass(frozen=True)
class CutMix(Mixing):
    """A rectangle of each image is cut out of another one; the loss is blended by area.

    The maps of dense tasks are cut like their images, so each pixel has the label of what it shows and their
    loss is not blended. The rectangle has the image's proportions and the area 1 - λ, is centered on any
    pixel, and is the same for the whole batch; if it crosses an edge, λ is computed again from the part
    inside.

    Source: Yun et al., ICCV 2019, arXiv:1905.04899

    Departs from the public code: applied to every batch, as there on ImageNet; on CIFAR it is half of them.
    """

    version: ClassVar[int] = 1

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Return the batch of cut images."""
        share, partner = self._draw_partners(batch)
        height, width = batch.images.shape[2:]
        scale = math.sqrt(1 - share)
        rows, columns = _draw_interval(height, scale), _draw_interval(width, scale)
        area = int(rows.sum()) * int(columns.sum()) / (height * width)
        inside = (rows[:, None] & columns).to(batch.images.device)

        def cut(values: Tensor) -> Tensor:
            return torch.where(inside, values[partner], values)

        maps = {task.name: cut(batch.targets[task.name]) for task in tasks if task.kind in DENSE}
        return replace(
            batch,
            images=cut(batch.images),
            targets={**batch.targets, **maps},
            mixed={**_partner_targets(partner, batch.targets), **maps},
            share=1 - area,
        )


def _draw_interval(length: int, scale: float) -> Bool[Tensor, " length"]:
    """Draw an interval around any of ``length`` pixels; return which of them it covers."""
    side = int(length * scale)
    start = int(torch.randint(0, length, ())) - side // 2
    pixels = torch.arange(length)
    return (pixels >= start) & (pixels < start + side)
