"""Train victims on the cleaned set and score them."""

import contextlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor

from bench.api import (
    MultiTaskData,
    Task,
)
from bench.engine.planning.cell import Cell, Poison
from bench.engine.stages.context import (
    RunContext,
    describe_environment,
    load_dataset,
    network_input_shape,
    pieces_note,
    seeded,
    with_run_context,
)
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.device import train_within_memory
from bench.engine.stages.purify import build_released_set, cleaned_set, draw_mask, load_poison, owned_mask
from bench.engine.stages.surrogate import train_undefended
from bench.engine.storage.store import SURROGATES, DamagedError
from bench.record import Cost, Epoch, Record, Scores, TaskInfo, relative_score
from bench.training.loaders import select_rows, to_device_if_it_fits
from bench.training.loop import freeze_shared, score_network, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Progress, Split


@with_run_context
def run_cell(cell: Cell, run_context: RunContext, progress: Progress) -> Record:
    """Poison, clean, train, score: return the cell's record.

    Where memory does not suffice a network is trained once more with halved batches; the cost is that of both
    tries.
    """
    meter = CostMeter(run_context.torch_device)
    with meter.phase("load"):
        data = load_dataset(cell.poison.dataset.part, run_context)
        about, change = load_poison(cell.poison, data, run_context)
    own = owned_mask(cell, data)
    with meter.phase("poison", images=len(data.train)):
        published = build_released_set(cell, data.train, change, own)
    cleaned, shared = cleaned_set(cell, published, data, about, meter, run_context, progress)
    material = _victim_data(cell, data, cleaned, own, run_context.torch_device)
    curves, pieces = [], 1
    for number, group in enumerate(cell.regime.part.groups(data.tasks)):
        train = partial(_train_victim, cell, group, material, data, number, meter, run_context, progress)
        trained, needed = train_within_memory(train, cell.label, cell.recipe.batch)
        curves.append(trained)
        pieces = max(pieces, needed)
    curve = _merge_curves(curves)
    return Record(
        key=cell.key,
        status="done",
        suite=run_context.suite,
        cell=cell.labels,
        victim=cell.victim,
        poison=cell.poison.key,
        settings=cell.settings(),
        tasks=_task_infos(data),
        scores={task: scores for one in curves for task, scores in _selected_epoch(one)["scores"].items()},
        peak=_peak_scores(curve, data),
        curve=curve,
        noise=about["noise"],
        cost={**_craft_cost(cell.poison, about, run_context), **shared, **meter.costs()},
        environment={
            **describe_environment(run_context),
            "data": about["data"],
            "augmentation": asdict(data.augmentation),
            **({"purified": cell.purified.key} if cell.purified else {}),
            **pieces_note(pieces),
        },
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@dataclass(frozen=True, eq=False)
class VictimData:
    """What a cell's networks are trained and scored on.

    Attributes:
        train: the released images, cleaned.
        test: the images that victims are scored on.
        validation: cleaned images that are held out, to pick an epoch; None: the last one is taken.
        held_out: what is to be known of the tasks on them.
        trusted: clean originals, on which the shared parameters are trained; None: there are none.
    """

    train: Split
    test: Split
    validation: Split | None
    held_out: dict[str, TaskInfo]
    trusted: Split | None


def _victim_data(
    cell: Cell, data: MultiTaskData, purified: Split, own: Tensor, device: torch.device
) -> VictimData:
    train, validation = purified, None
    held_out: dict[str, TaskInfo] = {}
    chosen = draw_mask(len(purified), cell.defense.part.validation, "validation", cell)
    if chosen.any():
        train, validation = select_rows(purified, ~chosen), select_rows(purified, chosen)
        held_out = _describe_tasks(data.tasks, train, validation)
        validation = to_device_if_it_fits(validation, device)
    trusted = to_device_if_it_fits(select_rows(data.train, own), device) if own.any() else None
    return VictimData(
        to_device_if_it_fits(train, device),
        to_device_if_it_fits(data.test, device),
        validation,
        held_out,
        trusted,
    )


def _train_victim(
    cell: Cell,
    tasks: tuple[Task, ...],
    material: VictimData,
    data: MultiTaskData,
    number: int,
    meter: CostMeter,
    run_context: RunContext,
    progress: Progress,
    pieces: int,
) -> list[Epoch]:
    """Train and score one network on some of the tasks; return its learning curve.

    Args:
        cell: whose victim it is.
        tasks: the network's.
        material: what it is trained and scored on.
        data: the dataset.
        number: tells the cell's networks apart.
        meter: adds the costs up.
        run_context: where it is done.
        progress: told of every epoch.
        pieces: in how many a batch goes through the network.
    """
    device, recipe = run_context.torch_device, cell.recipe
    if len(tasks) == 1 and recipe.stl_epochs is not None:
        recipe = replace(recipe, epochs=recipe.stl_epochs)
    pretrained = None
    if material.trusted is not None:
        images = recipe.epochs * len(material.trusted)
        with seeded(f"trusted {number}", cell.seed), meter.phase("pretrain", images=images):
            pretrained = MultiTaskNet(cell.backbone.part, tasks, network_input_shape(data), pieces).to(device)
            progress("pretraining epoch", 0, recipe.epochs)
            for step in train_undefended(pretrained, material.trusted, tasks, recipe, data, device):
                progress("pretraining epoch", step.epoch, recipe.epochs)
    with seeded(f"victim {number}", cell.seed):
        net = MultiTaskNet(cell.backbone.part, tasks, network_input_shape(data), pieces).to(device)
        if pretrained is not None:
            freeze_shared(net, pretrained)
        balancer = cell.weighting.part.start(tasks, device)
        steps = train_epochs(
            net, material.train, tasks, recipe, data.augmentation, balancer, cell.defense.part, device
        )
        curve = []
        progress("epoch", 0, recipe.epochs)
        for _ in range(recipe.epochs):
            with meter.phase("train", images=len(material.train)):
                step = next(steps)
            with meter.phase("score", images=len(material.test)):
                scores = score_network(net, material.test, tasks, data.augmentation, device)
            point = Epoch(
                epoch=step.epoch,
                train_loss=_finite_or_none(step.train_loss),
                learning_rate=step.learning_rate,
                weights=step.weights,
                scores=scores,
            )
            if material.validation is not None:
                with meter.phase("validate", images=len(material.validation)):
                    held_out = score_network(net, material.validation, tasks, data.augmentation, device)
                point["validation"] = _relative_scores(held_out, material.held_out)
            curve.append(point)
            progress("epoch", step.epoch, recipe.epochs)
    return curve


def _relative_scores(scores: Scores, infos: dict[str, TaskInfo]) -> dict[str, float]:
    """Return every task's `relative_score`, 0 if it is undefined."""
    shares = {task: relative_score(infos[task], scores[task][infos[task]["scored"]]) for task in scores}
    return {task: 0.0 if share is None else share for task, share in shares.items()}


def _selected_epoch(curve: list[Epoch]) -> Epoch:
    """Return the epoch of one network that counts: the last, or that of the best mean on held-out images."""
    if "validation" not in curve[-1]:
        return curve[-1]
    return max(curve, key=lambda epoch: fmean(epoch["validation"].values()))


def _merge_curves(curves: list[list[Epoch]]) -> list[Epoch]:
    """Merge the curves of a regime's networks into one; the loss is the mean over them."""
    merged = []
    for epochs in zip(*curves, strict=True):
        losses = [epoch["train_loss"] for epoch in epochs]
        known = [loss for loss in losses if loss is not None]
        point = Epoch(
            epoch=epochs[0]["epoch"],
            train_loss=sum(known) / len(known) if len(known) == len(losses) else None,
            learning_rate=epochs[0]["learning_rate"],
            weights={name: weight for epoch in epochs for name, weight in epoch["weights"].items()},
            scores={name: scores for epoch in epochs for name, scores in epoch["scores"].items()},
        )
        if "validation" in epochs[0]:
            point["validation"] = {
                name: value for epoch in epochs for name, value in epoch["validation"].items()
            }
        merged.append(point)
    return merged


def _peak_scores(curve: list[Epoch], data: MultiTaskData) -> Scores:
    """Return per task and metric the best value over the epochs; loss is best where it is small."""
    peak: Scores = {}
    for task in data.tasks:
        info = _task_infos(data)[task.name]
        peak[task.name] = {}
        for metric in curve[-1]["scores"][task.name]:
            values = [epoch["scores"][task.name][metric] for epoch in curve]
            known = [value for value in values if value is not None]
            best = max if info["perfect"].get(metric, 0.0) > info["floor"].get(metric, 1.0) else min
            peak[task.name][metric] = best(known) if known else None
    return peak


def _craft_cost(poison: Poison, about: dict[str, Any], run_context: RunContext) -> dict[str, Cost]:
    """Return the cost of the poison and of the surrogate it needed, each measured when it was made."""
    cost: dict[str, Cost] = dict(about["cost"])
    if poison.attack.part.needs_surrogate:
        # The poison is whole without it: a surrogate that was lost or damaged since costs the cell nothing.
        with contextlib.suppress(DamagedError):
            surrogate = run_context.store.about(SURROGATES, poison.surrogate.key) or {}
            cost = {**surrogate.get("cost", {}), **cost}
    return cost


@lru_cache(maxsize=2)
def _task_infos(data: MultiTaskData) -> dict[str, TaskInfo]:
    """Return what the leaderboard must know of every task, once per process: maps take a while to count."""
    return _describe_tasks(data.tasks, data.train, data.test)


def _describe_tasks(tasks: tuple[Task, ...], train: Split, test: Split) -> dict[str, TaskInfo]:
    return {
        task.name: cast("TaskInfo", task.describe(train.targets[task.name], test.targets[task.name]))
        for task in tasks
    }


def _finite_or_none(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
