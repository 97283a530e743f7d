"""Training and scoring a multi-task network: the only training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from bench.api import Augmentation, Balancer, Batch, Defense, Recipe, Split, Step, Targets, Task
from bench.augmentation import augment, center
from bench.net import MultiTaskNet, StatisticsKept
from bench.record import Scores
from bench.roomy import zeros

SCORING_BATCH = 1024
"""Images scored at a time, if they are small; changes speed and memory, not results."""

SCORING_VALUES = 2**24
"""Pixel values scored at a time, if images are larger."""


@dataclass(frozen=True)
class TrainedEpoch:
    """What one pass over the training set leaves: the mean loss, the learning rate, the mean task weights."""

    epoch: int
    train_loss: float
    learning_rate: float
    weights: dict[str, float]


def subset(split: Split, rows: Tensor) -> Split:
    """Return some of a split's images and labels, by their numbers or by a mask."""
    numbers = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    targets = {name: _picked(target, numbers) for name, target in split.targets.items()}
    return Split(_picked(split.images, numbers), targets)


def _picked(values: Tensor, numbers: Tensor) -> Tensor:
    picked = zeros((len(numbers), *values.shape[1:]), values.dtype)
    for place in torch.arange(len(numbers)).split(SCORING_BATCH):
        picked[place] = values[numbers[place]]
    return picked


HELD_SHARE = 0.5
"""Most of a GPU's free memory that images may take; the rest is for networks."""


def hold(split: Split, device: torch.device) -> Split:
    """Return the split on the device whole if it fits there, else as it is, to be streamed batch by batch."""
    if device.type != "cuda":
        return split
    size = sum(values.nbytes for values in (split.images, *split.targets.values()))
    if size > HELD_SHARE * torch.cuda.mem_get_info(device)[0]:
        return split
    targets = {name: target.to(device) for name, target in split.targets.items()}
    return Split(split.images.to(device), targets)


def take(split: Split, index: Tensor, device: torch.device) -> Batch:
    """Return some rows of a split as floats in [0, 1] on the device."""
    rows = index.to(split.images.device)
    images = split.images[rows].to(device)
    targets = {task: _widened(labels[rows].to(device)) for task, labels in split.targets.items()}
    return Batch(images.float().div_(255), targets, index)


def _widened(target: Tensor) -> Tensor:
    """Return a target as losses take it: maps are stored in fewer bits."""
    return target.float() if target.is_floating_point() else target.long()


class Passes:
    """A split in batches, pass after pass; the position can be noted and taken up again.

    Iterating goes on from the position to the end of the pass. A pass that begins draws its order.

    Attributes:
        position: batches of the current pass that were handed out.
    """

    def __init__(self, split: Split, size: int, device: torch.device, shuffle: bool) -> None:
        self.position = 0
        self._split, self._size, self._device, self._shuffle = split, size, device, shuffle
        self._order = torch.arange(len(split))

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return len(_chunks(self._order, self._size))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the pass."""
        if self.position == 0 and self._shuffle:
            self._order = torch.randperm(len(self._split))
        for index in _chunks(self._order, self._size)[self.position :]:
            self.position += 1
            yield take(self._split, index, self._device)

    def endless(self) -> Iterator[Batch]:
        """Yield pass after pass, for ever."""
        while True:
            yield from self
            self.position = 0

    def state(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self.position, "order": self._order}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a position."""
        self.position, self._order = int(state["position"]), state["order"]


def batches(split: Split, size: int, device: torch.device, shuffle: bool) -> Iterator[Batch]:
    """Yield the split once in batches, in a random order if asked; the last may be smaller, or one larger."""
    return iter(Passes(split, size, device, shuffle))


def _chunks(order: Tensor, size: int) -> list[Tensor]:
    chunks = list(order.split(size))
    if len(chunks) > 1 and len(chunks[-1]) == 1:  # batch normalisation cannot train on a single image
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


def task_losses(net: nn.Module, tasks: Sequence[Task], images: Tensor, targets: Targets) -> Tensor:
    """Return the loss of every task [t] on a batch of images."""
    return losses_of(net(images), tasks, targets)


def losses_of(outputs: Sequence[Tensor], tasks: Sequence[Task], targets: Targets) -> Tensor:
    """Return the loss of every task [t], given a network's outputs."""
    return torch.stack([task.loss(out, targets[task.name]) for task, out in zip(tasks, outputs, strict=True)])


def labelled_tasks(tasks: Sequence[Task], targets: Targets) -> Tensor:
    """Return which tasks [t] have a label in a batch."""
    return torch.stack([task.labelled(targets[task.name]).any() for task in tasks])


def batch_losses(outputs: Sequence[Tensor], tasks: Sequence[Task], batch: Batch) -> Tensor:
    """Return the loss of every task [t] on a batch, of mixed images that of both targets."""
    losses = losses_of(outputs, tasks, batch.targets)
    if batch.mixed is None:
        return losses
    return batch.share * losses + (1 - batch.share) * losses_of(outputs, tasks, batch.mixed)


def freeze_shared(net: MultiTaskNet, source: MultiTaskNet) -> None:
    """Give a network another one's shared parameters, which from then on stay as they are."""
    net.encoder.load_state_dict(source.encoder.state_dict())
    for own, other in zip(net.shared_parameters(), source.shared_parameters(), strict=True):
        own.data.copy_(other.data)
        own.requires_grad_(False)


def _enter_training(net: MultiTaskNet) -> None:
    """Put a network in training mode, but what is frozen: its batch normalisation has nothing to learn."""
    net.train()
    for part in (net.encoder, net.representation):
        part.train(any(parameter.requires_grad for parameter in part.parameters()))


def _step(net: MultiTaskNet, tasks: Sequence[Task], batch: Batch, shared: Sequence[nn.Parameter]) -> Step:
    """Return the losses of a batch and what they depend on."""
    features = net.encode(batch.images)
    if not features.requires_grad:  # frozen; a weighting may still ask how the losses depend on them
        features.requires_grad_(True)
    losses = batch_losses(net.answer(features, batch.images.shape[2:]), tasks, batch)
    labelled = labelled_tasks(tasks, batch.targets)
    if batch.mixed is not None:
        labelled |= labelled_tasks(tasks, batch.mixed)

    @torch.no_grad()
    def again() -> Tensor:
        with StatisticsKept(net):
            return batch_losses(net(batch.images), tasks, batch)

    return Step(losses, labelled, features, shared, again)


def fit(
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
    optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    drops = [round(fraction * recipe.epochs) for fraction in recipe.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, recipe.gamma)
    shared = [parameter for parameter in net.shared_parameters() if parameter.requires_grad]
    for epoch in range(1, recipe.epochs + 1):
        total = torch.zeros(len(tasks), device=device)
        weights = torch.zeros(len(tasks), device=device)
        steps = 0
        _enter_training(net)
        for batch in batches(train, recipe.batch, device, shuffle=True):
            drawn = replace(augment(batch, augmentation, tasks), progress=(epoch - 1) / recipe.epochs)
            seen = defense.augment(drawn, net, tasks)
            step = _step(net, tasks, seen, shared)
            optimizer.zero_grad(set_to_none=True)
            weights += balancer.backward(step).detach()
            clip_grad_norm_(net.parameters(), recipe.clip_norm)
            optimizer.step()
            balancer.finish_step(step)
            total += step.losses.detach() * len(batch.index)
            steps += 1
        balancer.finish_epoch(total / len(train))
        learning_rate = float(schedule.get_last_lr()[0])
        schedule.step()
        mean_weights = (weights / steps).tolist()
        yield TrainedEpoch(
            epoch,
            float(total.mean() / len(train)),
            learning_rate,
            {task.name: weight for task, weight in zip(tasks, mean_weights, strict=True)},
        )


@torch.no_grad()
def score(
    net: nn.Module, split: Split, tasks: Sequence[Task], augmentation: Augmentation, device: torch.device
) -> Scores:
    """Return every metric of every task on the central crops of a split, in evaluation mode."""
    net.eval()
    scorers = [task.scorer() for task in tasks]
    size = max(1, min(SCORING_BATCH, SCORING_VALUES // max(1, split.images[:1].numel())))
    for batch in batches(split, size, device, shuffle=False):
        seen = center(batch, augmentation, tasks)
        for task, scorer, outputs in zip(tasks, scorers, net(seen.images), strict=True):
            scorer.update(outputs, seen.targets[task.name])
    return {task.name: scorer.compute() for task, scorer in zip(tasks, scorers, strict=True)}
