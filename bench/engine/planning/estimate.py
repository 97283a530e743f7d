"""Estimate how long a run takes, from records or a calibration, and how much disk space it needs."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.api import Dataset, MultiTaskData
from bench.engine.planning.calibration import Calibration
from bench.engine.planning.cell import Cell, ItemKind, Poison, Purified, Surrogate, dataset_of
from bench.engine.planning.durations import SHARED_PHASES, labels_on_axes, mean_seconds, read_timed_records
from bench.engine.planning.expand import Plan
from bench.engine.planning.remaining_work import RemainingWork
from bench.engine.stages.context import RunContext
from bench.engine.stages.surrogate import MAX_SNAPSHOTS, equidistant_epochs
from bench.files import make_writable_folder
from bench.record import CLEAN
from bench.text import format_bytes
from bench.training.augmentation import cropped_shape
from bench.training.net import MultiTaskNet

RECORD_BYTES, SCORES_BYTES = 5_000, 300
"""Size of a record's file without its learning curve, and of the scores of one task in one epoch."""


@dataclass(frozen=True)
class KindEstimate:
    """The time and disk space that the items of a kind are expected to take.

    Attributes:
        kind: of the items.
        count: number of items to do.
        seconds: for the items whose time can be told, divided by the number of jobs.
        untimed: number of the other items.
        stored: bytes on the disk, for the items whose size is known.
        unsized: number of the other items, whose datasets are not decoded yet.
        calibrated: number of items like which none was timed before, whose time a calibration tells.
    """

    kind: ItemKind
    count: int
    seconds: float
    untimed: int
    stored: int
    unsized: int
    calibrated: int = 0


def estimate_kinds(
    remaining: RemainingWork, run_context: RunContext, jobs: int, calibration: Calibration | None = None
) -> list[KindEstimate]:
    """Estimate the items of every kind, for a number of jobs; purified sets only if the suite has some.

    An item is expected to take the mean time of earlier items on this machine that have the same dataset and:
    for a poison the same attack, for a purified set the same defense, for a cell the same backbone and
    regime. If there is none, the calibration tells its time.
    """
    records = read_timed_records(run_context) if remaining.cells else []
    if calibration is not None:
        axes = next(axes for kind, axes, _ in _KINDS if kind == "cells")
        timed = mean_seconds(records, axes, None)
        calibration.measure_networks(c for c in remaining.cells if labels_on_axes(c, axes) not in timed)
    data: dict[Dataset, MultiTaskData | None] = {}
    estimates = []
    for kind, axes, size in _KINDS:
        items = getattr(remaining, kind)
        if kind == "purified" and not items and not remaining.cached[kind]:
            continue
        means = mean_seconds(records, axes, SHARED_PHASES.get(kind))
        seconds, sizes, calibrated = [], [], 0
        for item in items:
            dataset = dataset_of(item)
            if (labels := labels_on_axes(item, axes)) in means:
                seconds.append(means[labels])
            elif calibration is not None and (expected := calibration.seconds(item)) is not None:
                seconds.append(expected)
                calibrated += 1
            if dataset.part not in data:
                data[dataset.part] = _load_if_decoded(dataset.part, run_context)
            if (loaded := data[dataset.part]) is not None:
                sizes.append(size(item, loaded))
        untimed, unsized = len(items) - len(seconds), len(items) - len(sizes)
        total, stored = sum(seconds) / jobs, sum(sizes)
        estimates.append(KindEstimate(kind, len(items), total, untimed, stored, unsized, calibrated))
    return estimates


def check_disk_space(estimates: Sequence[KindEstimate], run_context: RunContext) -> str | None:
    """Return one sentence if the disk has less space than the run needs, else None."""
    folder = run_context.out
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(each.stored for each in estimates), shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"the run needs {format_bytes(needed)}, but the disk of {run_context.out} has only "
        f"{format_bytes(free)} left; free some space, or give another --out"
    )


def check_cache(plan: Plan, run_context: RunContext) -> None:
    """Check that the cache can be written to if a dataset of the plan still has to be decoded.

    Raises:
        BenchError: when it cannot.
    """
    try:
        make_writable_folder(run_context.cache)
    except OSError:
        for dataset in {cell.poison.dataset.part for cell in plan.cells}:
            with contextlib.suppress(_NotDecodedError):
                dataset.load(run_context.data_root, run_context.cache, _stop_decoding)


class _NotDecodedError(Exception):
    """A dataset is not decoded yet."""


def _stop_decoding(what: str, done: int, total: int) -> None:
    raise _NotDecodedError


def _load_if_decoded(part: Dataset, run_context: RunContext) -> MultiTaskData | None:
    """Return the data, None if they would have to be decoded first or cannot be loaded."""
    try:
        return part.load(run_context.data_root, run_context.cache, _stop_decoding)
    except (Exception, SystemExit):  # a dataset from outside may raise anything; a run says what
        return None


def _surrogate_bytes(surrogate: Surrogate, data: MultiTaskData) -> int:
    channels, height, width = data.train.images.shape[1:]
    shape = cropped_shape((channels, height, width), data.augmentation)
    with torch.device("meta"):  # shapes without memory
        net = MultiTaskNet(surrogate.backbone.part, data.tasks, shape)
    snapshots = len(equidistant_epochs(surrogate.recipe.epochs, MAX_SNAPSHOTS))
    net_bytes: int = sum(tensor.nbytes for tensor in net.state_dict().values())
    return snapshots * net_bytes


def _poison_bytes(poison: Poison, data: MultiTaskData) -> int:
    """Return one byte per pixel value if the budget limits each, else two; none for the clean attack."""
    width = 0 if poison.attack.name == CLEAN else 1 if poison.attack.part.norm == "linf" else 2
    return width * data.train.images.numel()


def _purified_bytes(purified: Purified, data: MultiTaskData) -> int:
    """Return one byte per pixel value of the images that the defense does not own."""
    published: float = 1 - purified.defense.part.trusted
    return round(published * data.train.images.numel())


def _record_bytes(cell: Cell, data: MultiTaskData) -> int:
    return RECORD_BYTES + SCORES_BYTES * cell.recipe.epochs * len(data.tasks)


_KINDS: tuple[tuple[ItemKind, tuple[str, ...], Callable[[Any, MultiTaskData], int]], ...] = (
    ("surrogates", (), _surrogate_bytes),
    ("poisons", ("attack",), _poison_bytes),
    ("purified", ("defense",), _purified_bytes),
    ("cells", ("backbone", "regime"), _record_bytes),
)
"""Kind, axes besides the dataset by which times are averaged, and bytes of an item."""
