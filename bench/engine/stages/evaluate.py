"""Poison a dataset, clean it, train victims on it and score them."""

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from bench.api import MultiTaskData
from bench.engine.planning.cell import Cell, Poison
from bench.engine.stages.context import RunContext, describe_environment, with_run_context
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.learning_curve import LearningCurve, merge_curves, peak_scores, selected_scores
from bench.engine.stages.loaded_data import fingerprint, load_dataset
from bench.engine.stages.purify import load_or_purify
from bench.engine.stages.released_set import StoredPoison, build_released_set, load_poison
from bench.engine.stages.victim import build_victim_data, describe_tasks, train_victims
from bench.engine.storage.store import SURROGATES, DamagedError
from bench.record import Cost, Record, TaskInfo, is_same_data
from bench.values import Progress


@with_run_context
def evaluate_cell(cell: Cell, run_context: RunContext, progress: Progress) -> Record:
    """Poison the dataset, clean it, train victims on it, score every task; return the cell's record."""
    meter = CostMeter(run_context.torch_device)
    with meter.phase("load"):
        data = load_dataset(cell.poison.dataset.part, run_context)
        poison = load_poison(cell.poison, data, run_context)
    with meter.phase("poison", images=len(data.train)):
        released = build_released_set(cell, data.train, poison.change)
    purified, purify_cost = load_or_purify(cell, released, data, poison, run_context, progress)
    victim_data = build_victim_data(cell, data, purified, run_context.torch_device)
    curves, pieces = train_victims(cell, victim_data, meter, run_context, progress)
    cost = {**_poison_cost(cell.poison, poison.about, run_context), **purify_cost, **meter.costs()}
    return _build_record(cell, data, poison, curves, cost, pieces, run_context)


def _build_record(
    cell: Cell,
    data: MultiTaskData,
    poison: StoredPoison,
    curves: list[LearningCurve],
    cost: dict[str, Cost],
    pieces: int,
    run_context: RunContext,
) -> Record:
    curve, tasks = merge_curves(curves), _task_infos(data)
    return Record(
        key=cell.key,
        status="done",
        suite=run_context.suite,
        cell=cell.labels,
        victim=cell.victim,
        poison=cell.poison.key,
        settings=cell.settings(),
        tasks=tasks,
        scores=selected_scores(curves),
        peak=peak_scores(curve, tasks),
        curve=curve,
        noise=poison.about["noise"],
        cost=cost,
        environment={
            **describe_environment(run_context, pieces),
            "data": fingerprint(data),
            "augmentation": asdict(data.augmentation),
            **({"purified": cell.purified.key} if cell.purified else {}),
        },
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _poison_cost(poison: Poison, about: dict[str, Any], run_context: RunContext) -> dict[str, Cost]:
    """Return the cost of the poison and of the surrogate it needed, each measured when it was made."""
    cost: dict[str, Cost] = dict(about["cost"])
    if poison.attack.part.needs_surrogate:
        # A poison does not need its surrogate any more: a missing or damaged one only lacks its cost here.
        with contextlib.suppress(DamagedError):
            surrogate = run_context.store.read_about(SURROGATES, poison.surrogate.key) or {}
            if is_same_data(surrogate.get("data", ""), about["data"]):
                cost = {**surrogate.get("cost", {}), **cost}
    return cost


@lru_cache(maxsize=2)
def _task_infos(data: MultiTaskData) -> dict[str, TaskInfo]:
    """Describe the tasks once per process: counting the pixels of label maps takes a while."""
    return describe_tasks(data.tasks, data.train, data.test)
