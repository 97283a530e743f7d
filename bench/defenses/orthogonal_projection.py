"""Orthogonal projection: remove from the images what a linear model can read the labels from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, UInt8
from torch import Tensor

from bench.api import Task
from bench.defenses.base import NoOp
from bench.defenses.by_chunk import map_by_chunk
from bench.memory import rows_per_chunk
from bench.tasks.classification import require_classification
from bench.training.loaders import iterate_batches
from bench.training.loop import losses_of_outputs
from bench.values import Progress, Split, ignore_progress


@dataclass(frozen=True)
class OrthogonalProjection(NoOp):
    """Orthogonal projection: linear models learn the tasks from pixels, and their directions are removed.

    There is one model without bias per task, with a row of weights per output (one row for a binary task).
    Every image is projected, around the mean image, onto the subspace orthogonal to all rows. It works if the
    noise is a linear shortcut that is nearly the same in all images of a class.

    Source: Sandoval-Segura et al., NeurIPS 2023, arXiv:2305.19254, section 4.4; SGD, its schedule and batch
    as in its public code (psandovalsegura/learn-from-unlearnable)

    Departs from the paper: images are centered at the mean image before training and projection. Without a
    bias the rows are mostly that image, and the images without it do not fit into 8 bits: a third of the
    values or more would be clipped. The order is drawn anew for every pass, and victims do not augment more
    than usual.

    Attributes:
        epochs: passes over the released images; the learning rate is divided by ten after half and after
            three quarters of them.
        learning_rate: SGD's, without momentum.
        batch: images per step; the default is the paper's, for 50,000 images. Fewer images need smaller
            batches, since the models learn little in a few dozen steps.
    """

    epochs: Annotated[int, Ge(1)] = 20
    learning_rate: Annotated[float, Gt(0)] = 0.1
    batch: Annotated[int, Ge(1)] = 1024
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False
    learned: ClassVar[bool] = True

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the projected images, rounded and held to the range of 8 bits.

        Raises:
            BenchError: when a task is no classification.
        """
        mean = mean_image(released.images, device)
        basis = torch.linalg.qr(self._learn(released, mean, tasks, device, progress).T).Q

        def change(images: Tensor) -> Tensor:
            return 255 * (project(images.flatten(1) / 255 - mean, basis) + mean).view(images.shape)

        return map_by_chunk(released.images, change, device, progress)

    def learn(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> Float[Tensor, "r p"]:
        """Return the rows [r, pixel values] of the linear models of all tasks."""
        return self._learn(released, mean_image(released.images, device), tasks, device, progress)

    def _learn(
        self,
        released: Split,
        mean: Float[Tensor, " p"],
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress,
    ) -> Float[Tensor, "r p"]:
        outputs = [task.outputs for task in require_classification(tasks, "defense 'orthogonal-projection'")]
        model = torch.nn.Linear(len(mean), sum(outputs), bias=False).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.learning_rate)
        drops = [max(1, self.epochs // 2), max(1, 3 * self.epochs // 4)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops)
        for epoch in range(self.epochs):
            progress("projection epoch", epoch, self.epochs)
            for batch in iterate_batches(released, self.batch, device, shuffle=True):
                answers = model(batch.images.flatten(1).sub_(mean)).split(outputs, dim=1)
                optimizer.zero_grad(set_to_none=True)
                losses_of_outputs(answers, tasks, batch.targets).sum().backward()
                optimizer.step()
            schedule.step()
        progress("projection epoch", self.epochs, self.epochs)
        return model.weight.detach()


def mean_image(images: UInt8[Tensor, "n c h w"], device: torch.device) -> Float[Tensor, " p"]:
    """Return the mean of all images, flattened, in [0, 1]."""
    total = torch.zeros(images[0].numel(), dtype=torch.double, device=device)
    for some in images.split(rows_per_chunk(images)):
        total += some.to(device).flatten(1).sum(0, dtype=torch.double)
    return (total / (255 * len(images))).float()


def project(images: Float[Tensor, "n p"], basis: Float[Tensor, "p r"]) -> Float[Tensor, "n p"]:
    """Return the part of every row that is orthogonal to all columns of an orthonormal basis."""
    return images - (images @ basis) @ basis.T
