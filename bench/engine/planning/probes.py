"""Short measurements of what items are made of: steps of trainings, passes of craftings, learned cleaning."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bench.api import Attack, Backbone, Defense, MultiTaskData, PretrainingRegime, Regime, Task, Weighting
from bench.catalog.build import build_part
from bench.engine.stages.context import RunContext, network_input_shape, seeded
from bench.engine.stages.networks import build_network
from bench.engine.stages.passes import PassCounter
from bench.training.loaders import select_rows
from bench.training.loop import train_epochs
from bench.training.net import MultiTaskNet
from bench.values import DENSE, Budget, CraftContext, Recipe

BATCH = 16
"""Images per step of an attack or of a small network."""

SHORT_BATCH = 2
"""Images per step, to see how the number of steps depends on that."""

ENOUGH_S = 0.25
"""A crafting or cleaning is stopped after its first report of progress that comes later than this."""

LEAST_STEPS = 2
"""Reports of progress before a crafting can be stopped; a crafting with fewer is measured to its end."""

INNER_STEPS = 4
"""Most steps per batch that are measured; the time of an attack with more steps is taken in proportion."""

LONG_S = 0.15
"""A step is measured several times if that takes less."""

SHORT_S = 0.05
"""A step that takes less is measured with more images."""


class _EnoughError(Exception):
    """A measurement has taken long enough."""


def small_backbone(data: MultiTaskData) -> Backbone:
    """Return a backbone that is fast, with which parts are compared."""
    dense = any(task.kind in DENSE for task in data.tasks)
    chosen: Backbone = build_part("backbone", "dense-small" if dense else "small(width=8)")
    return chosen


@dataclass(frozen=True)
class Victim:
    """The parts that a training is timed with."""

    backbone: Backbone
    weighting: Weighting
    defense: Defense
    regime: Regime


def undefended_victim(backbone: Backbone) -> Victim:
    """Return the victim that others are compared with: all its other parts are the simplest."""
    parts = (build_part("weighting", "ew"), build_part("defense", "none"), build_part("regime", "mtl"))
    return Victim(backbone, *parts)


def time_step(victim: Victim, data: MultiTaskData, run_context: RunContext) -> float:
    """Return the seconds of a step of all networks of the regime."""
    groups = victim.regime.groups(data.tasks)
    shape = network_input_shape(data)
    net = build_network(victim.backbone, groups[0], shape, run_context, regime=victim.regime)
    return len(groups) * _time_steps(net, victim, groups[0], data, BATCH, run_context)


def _time_steps(
    net: MultiTaskNet,
    victim: Victim,
    tasks: tuple[Task, ...],
    data: MultiTaskData,
    count: int,
    run_context: RunContext,
) -> float:
    """Return the seconds of the fastest of several steps on ``count`` images, without the first one."""
    device, recipe = run_context.torch_device, Recipe(epochs=12, batch=count)
    train = select_rows(data.train, torch.arange(count) % len(data.train))
    balancer = victim.weighting.start(tasks, device)
    steps = train_epochs(net, train, tasks, recipe, data.augmentation, balancer, victim.defense, device)
    next(steps)  # it also prepares
    seconds = [_run_timed(lambda: next(steps), run_context)]
    while sum(seconds) < LONG_S and len(seconds) < recipe.epochs - 1:
        seconds.append(_run_timed(lambda: next(steps), run_context))
    return min(seconds)


def time_steps(backbone: Backbone, data: MultiTaskData, run_context: RunContext) -> tuple[float, float]:
    """Return the seconds of a training step without images, and those that every image adds."""
    victim = undefended_victim(backbone)
    net = build_network(backbone, data.tasks, network_input_shape(data), run_context)
    few, many = 2, 4
    seconds = _time_steps(net, victim, data.tasks, data, few, run_context)
    if seconds < SHORT_S:
        few, many = 16, 64
        seconds = _time_steps(net, victim, data.tasks, data, few, run_context)
    longer = _time_steps(net, victim, data.tasks, data, many, run_context)
    per_image = max(0.0, longer - seconds) / (many - few)
    return max(0.0, seconds - few * per_image), per_image


def time_regime(victim: Victim, data: MultiTaskData, run_context: RunContext) -> dict[str, float]:
    """Compare the networks of a regime with the one that all tasks share.

    Returns:
        ``factor``: seconds of an epoch, as part of those of the shared network; ``pretraining``: the same of
        a pass without labels; ``networks``: how many there are; ``tasks``: the most that one of them has.
    """
    shared = time_step(undefended_victim(victim.backbone), data, run_context)
    groups = victim.regime.groups(data.tasks)
    pretraining = 0.0
    if isinstance(victim.regime, PretrainingRegime):
        net = build_network(victim.backbone, data.tasks, network_input_shape(data), run_context)
        few = select_rows(data.train, torch.arange(BATCH)).images
        recipe, device = Recipe(epochs=3, batch=BATCH), run_context.torch_device
        passes = victim.regime.pretrain(net, few, recipe, data.augmentation, device)
        next(passes)
        pretraining = _run_timed(lambda: next(passes), run_context) / shared
    factor = time_step(victim, data, run_context) / shared
    tasks = max(map(len, groups))
    return {"factor": factor, "pretraining": pretraining, "networks": len(groups), "tasks": tasks}


def busy_clock(run_context: RunContext) -> Callable[[], float]:
    """Return a clock that other programs on the machine do not slow down, where there is one."""
    return (
        time.process_time if run_context.device == "cpu" and run_context.threads == 1 else time.perf_counter
    )


def _run_timed(work: Callable[[], object], run_context: RunContext) -> float:
    clock = busy_clock(run_context)
    started = clock()
    work()
    if run_context.device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


@dataclass(frozen=True)
class CraftingProbe:
    """What a crafting needs, as far as it can be told from its beginning.

    Attributes:
        fixed_s: seconds that do not depend on the number of images; without steps only.
        image_s: seconds for every image of a step, or for every image if there are no steps, beside networks.
        steps: steps in all, whatever the number of images.
        rounds: steps in all, for every step of a round.
        passes: passes through surrogates for every image of a step, each as long as a training pass.
        round_batches: the same of a whole batch, once per round.
    """

    fixed_s: float
    image_s: float
    steps: float = 0.0
    rounds: float = 0.0
    passes: float = 0.0
    round_batches: float = 0.0


def probe_crafting(
    attack: Attack, budget: Budget | None, data: MultiTaskData, run_context: RunContext
) -> CraftingProbe:
    """Craft on a few images against small surrogates for a moment."""
    import sklearn.cluster  # attacks import it lazily
    import sklearn.datasets  # noqa: F401

    craft = partial(_craft, attack, budget, data, run_context)
    count = len(data.train)
    watch, seconds = craft(BATCH, count)
    if len(watch.steps) < LEAST_STEPS:
        # The first call has found what does not depend on the images; later ones may find it in a cache.
        half, whole = (craft(BATCH, number)[1] for number in (count // 2, count))
        image_s = max(0.0, whole - half) / (count - count // 2)
        return CraftingProbe(max(0.0, seconds - count * image_s), image_s)
    long, short = math.ceil(count / SHORT_BATCH), math.ceil(count / BATCH)
    # The increments within the first round; its beginning is what is done once per round.
    first, last = watch.steps[0], watch.steps[max(1, min(short, len(watch.steps)) - 1)]
    steps, longer = last.done - first.done, max(1.0, getattr(attack, "steps", 1) / INNER_STEPS)
    passes = (last.passes - first.passes) / steps
    # How many steps there are can depend on the steps of a round, or not.
    total = craft(SHORT_BATCH, count, only_start=True)[0].total if hasattr(attack, "batch") else None
    rounds = last.total / short if total is None else (total - last.total) / (long - short)
    return CraftingProbe(
        0.0,
        longer * (last.seconds - first.seconds) / steps / BATCH,
        max(0.0, last.total - rounds * short),
        rounds,
        longer * passes / BATCH,
        max(0.0, first.passes - first.done * passes) / BATCH,
    )


def _craft(
    attack: Attack,
    budget: Budget | None,
    data: MultiTaskData,
    run_context: RunContext,
    batch: int,
    count: int,
    only_start: bool = False,
) -> "tuple[_Watch, float]":
    """Craft on ``count`` images for a moment; return what was seen, and the seconds."""
    counter = PassCounter()
    watch = _Watch(busy_clock(run_context), lambda: _training_passes(counter), only_start)
    backbone, shape = small_backbone(data), network_input_shape(data)

    def new_surrogate() -> MultiTaskNet:
        net = build_network(backbone, data.tasks, shape, run_context)
        net.count_pass = counter.count
        return net

    context = CraftContext(
        data.tasks,
        data.augmentation,
        1.0 if budget is None else budget.pixel_epsilon,
        new_surrogate,
        lambda number: [new_surrogate() for _ in range(number)],
        run_context.torch_device,
        watch.progress,
        norm=attack.norm,
    )
    changes = {"batch": batch, "steps": min(INNER_STEPS, getattr(attack, "steps", 1))}
    shortened = {name: value for name, value in changes.items() if hasattr(attack, name)}
    attack = replace(attack, **shortened)  # type: ignore[type-var]
    train = select_rows(data.train, torch.arange(count))
    with seeded("probe", 0):
        return watch, watch.time(lambda: attack.craft(train, context))


def _training_passes(counter: PassCounter) -> float:
    """Return the images that went through networks, as many as take as long in a training.

    A training pass has three parts: forward, the gradients of the features and those of the weights.
    """
    fixed = counter.images["forward"] + counter.images["backward"]
    return fixed / 3 + counter.images["surrogate"] / 2


def probe_cleaning(defense: Defense, data: MultiTaskData, run_context: RunContext) -> float:
    """Clean a few images for a moment; return the seconds per image that all of the cleaning takes."""
    few = select_rows(data.train, torch.arange(min(BATCH, len(data.train))))
    watch = _Watch(busy_clock(run_context))
    with seeded("probe", 0):
        seconds = watch.time(
            lambda: defense.purify(few, data.tasks, run_context.torch_device, watch.progress)
        )
    whole = watch.total / watch.steps[-1].done if watch.stopped else 1.0
    return seconds * whole / len(few)


@dataclass(frozen=True)
class _Step:
    """A report of progress, and what had been spent by then."""

    done: int
    total: int
    seconds: float
    passes: float


class _Watch:
    """Stops work that reports its progress, after `ENOUGH_S`.

    Attributes:
        total: steps in all, as the last report has them.
        steps: the reports after the first step.
        stopped: whether the work was stopped.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        count_passes: Callable[[], float] = lambda: 0.0,
        only_start: bool = False,
    ) -> None:
        self._clock = clock
        self.total = 0
        self.steps: list[_Step] = []
        self.stopped = False
        self._count_passes = count_passes
        self._only_start = only_start
        self._started = 0.0

    def progress(self, what: str, done: int, total: int) -> None:
        self.total = total
        seconds = self._clock() - self._started
        if 0 < done < total:
            self.steps.append(_Step(done, total, seconds, self._count_passes()))
        is_enough = seconds > ENOUGH_S and len(self.steps) >= LEAST_STEPS
        if self._only_start or is_enough:
            self.stopped = True
            raise _EnoughError

    def time(self, work: Callable[[], Any]) -> float:
        """Return the seconds until the work ended or was stopped."""
        self._started = self._clock()
        with contextlib.suppress(_EnoughError):
            work()
        return self._clock() - self._started
