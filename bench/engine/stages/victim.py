"""Train the victims of a cell on the purified set and score them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import cast

import torch

from bench.api import MultiTaskData, PretrainingRegime, Task
from bench.engine.planning.cell import Cell
from bench.engine.stages.context import RunContext, network_input_shape, seeded
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.device import train_within_memory
from bench.engine.stages.learning_curve import LearningCurve, validation_scores
from bench.engine.stages.networks import build_network
from bench.engine.stages.released_set import draw_mask, owned_mask
from bench.engine.stages.surrogate import train_undefended
from bench.record import Epoch, TaskInfo
from bench.training.loaders import select_rows, to_device_if_it_fits
from bench.training.loop import TrainedEpoch, freeze_shared, score_network, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Progress, Recipe, Split


@dataclass(frozen=True, eq=False)
class VictimData:
    """What a cell's networks are trained and scored on.

    Attributes:
        data: the dataset they belong to.
        train: the released images, purified.
        test: the images that victims are scored on.
        validation: purified images that are held out to select an epoch; None: the last one counts.
        validation_infos: task → what relative scores on them need.
        trusted: clean originals, on which the shared parameters are pretrained; None: there are none.
    """

    data: MultiTaskData
    train: Split
    test: Split
    validation: Split | None
    validation_infos: dict[str, TaskInfo]
    trusted: Split | None


def build_victim_data(cell: Cell, data: MultiTaskData, purified: Split, device: torch.device) -> VictimData:
    """Split off what the defense holds out, and move what fits to the device."""
    train, validation, infos = purified, None, {}
    held_out = draw_mask(len(purified), cell.defense.part.validation, "validation", cell)
    if held_out.any():
        train, validation = select_rows(purified, ~held_out), select_rows(purified, held_out)
        infos = describe_tasks(data.tasks, train, validation)
        validation = to_device_if_it_fits(validation, device)
    owned = owned_mask(cell, len(data.train))
    trusted = to_device_if_it_fits(select_rows(data.train, owned), device) if owned.any() else None
    train, test = to_device_if_it_fits(train, device), to_device_if_it_fits(data.test, device)
    return VictimData(data, train, test, validation, infos, trusted)


def describe_tasks(tasks: tuple[Task, ...], train: Split, test: Split) -> dict[str, TaskInfo]:
    """Return task → what a table must know of it, for victims trained and scored on these splits."""
    return {
        task.name: cast("TaskInfo", task.describe(train.targets[task.name], test.targets[task.name]))
        for task in tasks
    }


def train_victims(
    cell: Cell, victim_data: VictimData, meter: CostMeter, run_context: RunContext, progress: Progress
) -> tuple[list[LearningCurve], int]:
    """Train and score every network of the regime.

    Returns:
        The networks' learning curves, and the largest number of pieces that a batch had to be split into. If
        memory is too small for a network, it is trained again; its cost is that of both attempts.
    """
    curves, most_pieces = [], 1
    for number, tasks in enumerate(cell.regime.part.groups(victim_data.data.tasks)):
        train = partial(_train_victim, cell, tasks, number, victim_data, meter, run_context, progress)
        curve, pieces = train_within_memory(train, cell.label, cell.recipe.batch)
        curves.append(curve)
        most_pieces = max(most_pieces, pieces)
    return curves, most_pieces


def _train_victim(
    cell: Cell,
    tasks: tuple[Task, ...],
    number: int,
    victim_data: VictimData,
    meter: CostMeter,
    run_context: RunContext,
    progress: Progress,
    pieces: int,
) -> LearningCurve:
    """Train and score one network on some of the tasks; the number tells the cell's networks apart."""
    data, device, recipe = victim_data.data, run_context.torch_device, cell.recipe
    if len(tasks) == 1 and recipe.stl_epochs is not None:
        recipe = replace(recipe, epochs=recipe.stl_epochs)
    shape = network_input_shape(data)

    def build_net() -> MultiTaskNet:
        return build_network(cell.backbone.part, tasks, shape, run_context, pieces, cell.regime.part)

    pretrained = None
    if victim_data.trusted is not None or isinstance(cell.regime.part, PretrainingRegime):
        pretrained = _pretrain(cell, tasks, number, victim_data, recipe, build_net, meter, device, progress)
    curve = []
    with seeded(f"victim {number}", cell.seed):
        net = build_net()
        if pretrained is not None:
            freeze_shared(net, pretrained)
        balancer = cell.weighting.part.start(tasks, device)
        epochs = train_epochs(
            net, victim_data.train, tasks, recipe, data.augmentation, balancer, cell.defense.part, device
        )
        progress("epoch", 0, recipe.epochs)
        for _ in range(recipe.epochs):
            with meter.phase("train", images=len(victim_data.train)):
                epoch = next(epochs)
            curve.append(_score_epoch(net, epoch, tasks, victim_data, meter, device))
            progress("epoch", epoch.epoch, recipe.epochs)
    return curve


def _pretrain(
    cell: Cell,
    tasks: tuple[Task, ...],
    number: int,
    victim_data: VictimData,
    recipe: Recipe,
    build_net: Callable[[], MultiTaskNet],
    meter: CostMeter,
    device: torch.device,
    progress: Progress,
) -> MultiTaskNet:
    """Return a network that was trained on the trusted images, or without labels if the regime does that."""
    data, regime = victim_data.data, cell.regime.part
    source = victim_data.train if victim_data.trusted is None else victim_data.trusted
    epochs = regime.pretraining_epochs(recipe) if isinstance(regime, PretrainingRegime) else recipe.epochs
    with seeded(f"trusted {number}", cell.seed), meter.phase("pretrain", images=epochs * len(source)):
        net = build_net()
        training: Iterator[object]
        if isinstance(regime, PretrainingRegime):
            training = regime.pretrain(net, source.images, recipe, data.augmentation, device)
        else:
            training = train_undefended(net, source, tasks, recipe, data, device)
        progress("pretraining epoch", 0, epochs)
        for epoch, _ in enumerate(training, start=1):
            progress("pretraining epoch", epoch, epochs)
    return net


def _score_epoch(
    net: MultiTaskNet,
    epoch: TrainedEpoch,
    tasks: tuple[Task, ...],
    victim_data: VictimData,
    meter: CostMeter,
    device: torch.device,
) -> Epoch:
    augmentation = victim_data.data.augmentation
    with meter.phase("score", images=len(victim_data.test)):
        scores = score_network(net, victim_data.test, tasks, augmentation, device)
    point = Epoch(
        epoch=epoch.epoch,
        train_loss=_finite_or_none(epoch.train_loss),
        learning_rate=epoch.learning_rate,
        weights={task: _finite_or_none(weight) for task, weight in epoch.weights.items()},
        scores=scores,
    )
    if epoch.unanswered:
        point["unanswered"] = epoch.unanswered
    if victim_data.validation is not None:
        with meter.phase("validate", images=len(victim_data.validation)):
            held_out = score_network(net, victim_data.validation, tasks, augmentation, device)
        point["validation"] = validation_scores(held_out, victim_data.validation_infos)
    return point


def _finite_or_none(value: float) -> float | None:
    return value if isfinite(value) else None
