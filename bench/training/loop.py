"""Training and scoring a multi-task network: the only training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from bench.api import Balancer, Defense, Step, Task
from bench.record import Scores
from bench.tasks.together import labeled_by_task, losses_by_task
from bench.training.augmentation import augment, center_crop
from bench.training.loaders import SCORING_BATCH, iterate_batches
from bench.training.net import MultiTaskNet, PreserveBatchNormStatistics
from bench.values import Augmentation, Batch, Recipe, Split, Targets

SCORING_VALUES = 2**24
"""Pixel values scored at a time, if images are larger."""


@dataclass(frozen=True)
class TrainedEpoch:
    """The result of one epoch.

    Attributes:
        epoch: its number, from 1 on.
        train_loss: the mean of the tasks' losses, each the mean over its labeled samples.
        learning_rate: that of its steps.
        weights: task → its mean weight over the steps in which it has a label and the weights are finite;
            NaN if there are none.
        unanswered: steps for which the weighting found no finite weights.
    """

    epoch: int
    train_loss: float
    learning_rate: float
    weights: dict[str, float]
    unanswered: int


def task_losses(net: nn.Module, tasks: Sequence[Task], images: Tensor, targets: Targets) -> Tensor:
    """Return the loss of every task [t] on a batch of images."""
    return losses_of_outputs(net(images), tasks, targets)


def losses_of_outputs(outputs: Sequence[Tensor], tasks: Sequence[Task], targets: Targets) -> Tensor:
    """Return the loss of every task [t], given a network's outputs."""
    return losses_by_task(tasks, outputs, targets)


def labeled_tasks(tasks: Sequence[Task], targets: Targets) -> Tensor:
    """Return which tasks [t] have a label in a batch."""
    return labeled_by_task(tasks, targets).any(1)


def _labeled_shares(tasks: Sequence[Task], batch: Batch) -> Tensor:
    """Return the share of a batch's samples with a label, by task [t]; of mixed images, the larger one."""
    shares = labeled_by_task(tasks, batch.targets).sum(1) / len(batch.images)
    if batch.mixed is None:
        return shares
    return shares.maximum(_labeled_shares(tasks, replace(batch, targets=batch.mixed, mixed=None)))


def batch_losses(outputs: Sequence[Tensor], tasks: Sequence[Task], batch: Batch) -> Tensor:
    """Return the loss of every task [t] on a batch; for mixed images, that of both targets."""
    losses = losses_of_outputs(outputs, tasks, batch.targets)
    if batch.mixed is None:
        return losses
    return batch.share * losses + (1 - batch.share) * losses_of_outputs(outputs, tasks, batch.mixed)


def freeze_shared(net: MultiTaskNet, source: MultiTaskNet) -> None:
    """Copy another network's shared parameters into a network and freeze them there."""
    net.encoder.load_state_dict(source.encoder.state_dict())
    for own, other in zip(net.shared_parameters(), source.shared_parameters(), strict=True):
        own.data.copy_(other.data)
        own.requires_grad_(False)


def _set_training_mode(net: MultiTaskNet) -> None:
    """Put a network in training mode, except frozen parts, whose batch normalization must not change."""
    net.train()
    for part in (net.encoder, net.representation):
        part.train(any(parameter.requires_grad for parameter in part.parameters()))


def _training_step(
    net: MultiTaskNet,
    tasks: Sequence[Task],
    batch: Batch,
    labeled: Tensor,
    shared: Sequence[nn.Parameter],
) -> Step:
    """Return the losses of a batch and the features and parameters they depend on."""
    features = net.encode(batch.images)
    if not features.requires_grad:  # frozen; a weighting may still ask how the losses depend on them
        features.requires_grad_(True)
    losses = batch_losses(net.apply_heads(features, batch.images), tasks, batch)

    @torch.no_grad()
    def recompute_losses() -> Tensor:
        with PreserveBatchNormStatistics(net):
            return batch_losses(net(batch.images), tasks, batch)

    return Step(losses, labeled, features, shared, recompute_losses)


def train_epochs(
    net: MultiTaskNet,
    train: Split,
    tasks: Sequence[Task],
    recipe: Recipe,
    augmentation: Augmentation,
    balancer: Balancer,
    defense: Defense,
    device: torch.device,
) -> Iterator[TrainedEpoch]:
    """Train a network, yielding after every epoch.

    Every step: crop and flip per image, the defense's augmentation, the weighting's backward pass, gradient
    clipping, Adam.
    """
    trained = [*(p for p in net.parameters() if p.requires_grad), *balancer.parameters()]
    optimizer = torch.optim.Adam(
        trained,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda" or None,  # one kernel for all parameters
    )
    drops = [round(fraction * recipe.epochs) for fraction in recipe.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, recipe.gamma)
    shared = [parameter for parameter in net.shared_parameters() if parameter.requires_grad]
    crop = partial(augment, augmentation=augmentation, tasks=tasks)
    for epoch in range(1, recipe.epochs + 1):
        means = _EpochMeans(tasks, device)
        _set_training_mode(net)
        for batch in iterate_batches(train, recipe.batch, device, shuffle=True, crop=crop):
            seen = defense.augment(replace(batch, progress=(epoch - 1) / recipe.epochs), net, tasks)
            shares = _labeled_shares(tasks, seen)
            step = _training_step(net, tasks, seen, shares > 0, shared)
            optimizer.zero_grad(set_to_none=True)
            weights = balancer.backward(step).detach()
            clip_grad_norm_(net.parameters(), recipe.clip_norm)
            optimizer.step()
            balancer.finish_step(step)
            means.add(step, weights, shares, len(batch.index))
        balancer.finish_epoch(means.losses())
        learning_rate = float(schedule.get_last_lr()[0])
        schedule.step()
        yield means.result(epoch, learning_rate)


class _EpochMeans:
    """Sums over the steps of an epoch, kept on the device, and their means as `TrainedEpoch` has them."""

    def __init__(self, tasks: Sequence[Task], device: torch.device) -> None:
        self._names = [task.name for task in tasks]
        self._losses, self._labels, self._weights, self._steps = torch.zeros(4, len(tasks), device=device)
        self._unanswered = torch.zeros((), dtype=torch.long, device=device)
        self._samples = 0

    def add(self, step: Step, weights: Tensor, shares: Tensor, samples: int) -> None:
        """Add a step on some samples: its losses, and every task's weight and share of labeled samples."""
        labels = shares * samples
        self._losses += step.losses.detach() * labels
        self._labels += labels
        answered = weights.isfinite()
        self._weights += torch.where(step.labeled & answered, weights, 0)
        self._steps += step.labeled & answered
        self._unanswered += ~answered.all()
        self._samples += samples

    def losses(self) -> Tensor:
        """Return the loss of every task [t], 0 without labels."""
        return self._scaled_losses() / self._samples

    def _scaled_losses(self) -> Tensor:
        """Return the losses times the samples; where all have labels, their sum to the last bit."""
        shares = self._labels / self._samples
        scaled: Tensor = self._losses / shares.where(shares > 0, 1)
        return scaled

    def result(self, epoch: int, learning_rate: float) -> TrainedEpoch:
        """Return them as the result of an epoch."""
        means = (self._weights / self._steps).tolist()
        return TrainedEpoch(
            epoch,
            float(self._scaled_losses()[self._labels > 0].mean() / self._samples),
            learning_rate,
            dict(zip(self._names, means, strict=True)),
            int(self._unanswered),
        )


@torch.no_grad()
def score_network(
    net: nn.Module, split: Split, tasks: Sequence[Task], augmentation: Augmentation, device: torch.device
) -> Scores:
    """Return every metric of every task on the central crops of a split, in evaluation mode."""
    net.eval()
    scorers = [task.scorer() for task in tasks]
    size = max(1, min(SCORING_BATCH, SCORING_VALUES // max(1, split.images[:1].numel())))
    crop = partial(center_crop, augmentation=augmentation, tasks=tasks)
    for batch in iterate_batches(split, size, device, shuffle=False, crop=crop):
        for task, scorer, outputs in zip(tasks, scorers, net(batch.images), strict=True):
            scorer.update(outputs, batch.targets[task.name])
    return {task.name: scorer.compute() for task, scorer in zip(tasks, scorers, strict=True)}
