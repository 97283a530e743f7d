"""Measure how the cost of a training and of a crafting grows with their size."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import linregress, t

from bench.api import CraftContext
from bench.catalog.build import build_part
from bench.conformance.cases import Case
from bench.training.loaders import to_device_if_it_fits
from bench.training.loop import train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, NoCheckpoint, Recipe, ignore_progress

BATCH = 64
CONFIDENCE = 0.95

Work = Callable[[], object]


@dataclass(frozen=True)
class Scaling:
    """Seconds for several sizes of one thing.

    Attributes:
        axis: what was varied.
        sizes: its values.
        seconds: the median time for each.
    """

    axis: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def exponent(self) -> tuple[float, float, float]:
        """Return the exponent of the power law through the times, and both ends of its 95 % interval.

        1 is linear growth. A fixed cost makes it smaller. With fewer than three sizes there is no interval.
        """
        fit = linregress(np.log(self.sizes), np.log(self.seconds))
        free = len(self.sizes) - 2
        if free < 1:
            return fit.slope, float("nan"), float("nan")
        margin = float(t.ppf((1 + CONFIDENCE) / 2, free)) * fit.stderr
        return fit.slope, fit.slope - margin, fit.slope + margin


def measure_scaling(axis: str, sizes: tuple[int, ...], rounds: int, device: torch.device) -> Scaling:
    """Time an axis of `AXES_OF_COST`: all sizes in turn, ``rounds`` times after one that does not count."""
    works = [AXES_OF_COST[axis].prepare(size, device) for size in sizes]
    timed = [[_time(work, device) for work in works] for _ in range(rounds + 1)][1:]
    return Scaling(axis, sizes, tuple(map(statistics.median, zip(*timed, strict=True))))


def _time(work: Work, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _build_net(case: Case, device: torch.device) -> MultiTaskNet:
    shape = (case.channels, case.height, case.width)
    return MultiTaskNet(build_part("backbone", "small"), case.tasks, shape).to(device)


def _prepare_epoch(case: Case, device: torch.device) -> Work:
    """Return a function that trains a network for an epoch."""
    net, train = _build_net(case, device), to_device_if_it_fits(case.split(), device)
    balancer = build_part("weighting", "ew").start(case.tasks, device)
    defense, recipe = build_part("defense", "none"), Recipe(epochs=1, batch=BATCH)
    flip = Augmentation(flip=True)
    return lambda: list(train_epochs(net, train, case.tasks, recipe, flip, balancer, defense, device))


def _prepare_crafting(checkpoints: int, device: torch.device) -> Work:
    """Return a function that crafts noise against this many surrogates."""
    case = Case(height=32, width=32, classes=(2, 2, 2), count=2 * BATCH)
    nets = [_build_net(case, device) for _ in range(checkpoints)]
    context = CraftContext(
        tasks=case.tasks,
        augmentation=Augmentation(flip=True),
        epsilon=8 / 255,
        new_surrogate=lambda: _build_net(case, device),
        surrogate_snapshots=lambda _: nets,
        device=device,
        progress=ignore_progress,
        checkpoint=NoCheckpoint(),
    )
    name = f"mtl-ue-sep(checkpoints={checkpoints},rounds=1,batch={BATCH},width=8)"
    attack, train = build_part("attack", name), case.split()
    return lambda: attack.craft(train, context)


def _prepare_images(count: int, device: torch.device) -> Work:
    return _prepare_epoch(Case(height=32, width=32, classes=(2, 2, 2), count=count), device)


def _prepare_tasks(count: int, device: torch.device) -> Work:
    return _prepare_epoch(Case(height=32, width=32, classes=(2,) * count, count=4 * BATCH), device)


def _prepare_pixels(count: int, device: torch.device) -> Work:
    side = round(count**0.5)
    return _prepare_epoch(Case(height=side, width=side, classes=(2, 2, 2), count=2 * BATCH), device)


@dataclass(frozen=True)
class AxisOfCost:
    """What is varied.

    Attributes:
        smallest: its smallest size.
        prepare: returns what is timed, for a size and a device.
        what: what is timed, in words.
    """

    smallest: int
    prepare: Callable[[int, torch.device], Work]
    what: str

    def sizes(self, doublings: int) -> tuple[int, ...]:
        """Return the smallest size, and its double as often as given."""
        return tuple(self.smallest * 2**power for power in range(doublings + 1))


AXES_OF_COST = {
    "images": AxisOfCost(2 * BATCH, _prepare_images, "an epoch of training"),
    "tasks": AxisOfCost(5, _prepare_tasks, "an epoch of training"),
    "pixels": AxisOfCost(32 * 32, _prepare_pixels, "an epoch of training"),
    "checkpoints": AxisOfCost(2, _prepare_crafting, "a pass of crafting (mtl-ue-sep)"),
}
"""The sizes that a cost can depend on, by name."""
