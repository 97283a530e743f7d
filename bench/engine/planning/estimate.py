"""Estimate how long a run takes, from records in its folder, and how much disk space it needs."""

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from bench.api import Dataset, MultiTaskData
from bench.engine.planning.cell import Cell, ChosenPart, Poison, Purified, Surrogate, Wave
from bench.engine.planning.expand import Plan
from bench.engine.planning.remaining_work import RemainingWork
from bench.engine.stages.context import RunContext, describe_environment
from bench.engine.stages.surrogate import MAX_SNAPSHOTS, equidistant_epochs
from bench.files import make_writable_folder
from bench.record import CLEAN, Record, read_records
from bench.text import format_bytes
from bench.training.augmentation import cropped_shape
from bench.training.net import MultiTaskNet

MACHINE = ("cpu", "cpus", "device", "device_name")
"""A record's times count only if its environment has the same values as this machine."""

RECORD_BYTES, SCORES_BYTES = 5_000, 300
"""Size of a record's file without its learning curve, and of the scores of one task in one epoch."""


@dataclass(frozen=True)
class WaveEstimate:
    """The time and disk space that a wave is expected to take.

    Attributes:
        wave: its name.
        count: number of items to do.
        seconds: for the items like which one was timed before, divided by the number of jobs.
        untimed: number of the other items.
        stored: bytes on the disk, for the items whose size is known.
        unsized: number of the other items, whose datasets are not decoded yet.
    """

    wave: Wave
    count: int
    seconds: float
    untimed: int
    stored: int
    unsized: int


def estimate_waves(remaining: RemainingWork, run_context: RunContext, jobs: int) -> list[WaveEstimate]:
    """Estimate every wave, for a number of jobs; purified sets are left out if the suite has none.

    An item is expected to take the mean time of earlier items on this machine that have the same dataset and:
    for a poison the same attack, for a purified set the same defense, for a cell the same backbone.
    """
    records = _read_timed_records(run_context) if remaining.cells else []
    data: dict[Dataset, MultiTaskData | None] = {}
    estimates = []
    for wave, axes, phase, size in _WAVES:
        items = getattr(remaining, wave)
        if wave == "purified" and not items and not remaining.cached[wave]:
            continue
        means = _mean_seconds(records, axes, phase)
        seconds, sizes = [], []
        for item in items:
            dataset = _dataset(item)
            labels = (dataset.label, *(getattr(item, axis).label for axis in axes))
            if labels in means:
                seconds.append(means[labels])
            if dataset.part not in data:
                data[dataset.part] = _load_if_decoded(dataset.part, run_context)
            if (loaded := data[dataset.part]) is not None:
                sizes.append(size(item, loaded))
        untimed, unsized = len(items) - len(seconds), len(items) - len(sizes)
        estimates.append(WaveEstimate(wave, len(items), sum(seconds) / jobs, untimed, sum(sizes), unsized))
    return estimates


def check_disk_space(estimates: Sequence[WaveEstimate], run_context: RunContext) -> str | None:
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


def _read_timed_records(run_context: RunContext) -> list[Record]:
    machine = describe_environment(run_context)
    return [
        record
        for record in read_records(run_context.store.records, curve=False)
        if isinstance(record, Record)
        and record.status == "done"
        and all(record.environment.get(fact) == machine[fact] for fact in MACHINE)
    ]


def _mean_seconds(
    records: Iterable[Record], axes: Sequence[str], phase: str | None
) -> Mapping[tuple[str, ...], float]:
    """Return labels on dataset and axes → mean seconds of a shared phase, or of what a cell did itself."""
    seconds = defaultdict(list)
    for record in records:
        labels = tuple(str(record.cell[axis]) for axis in ("dataset", *axes))
        if phase is None:
            seconds[labels].append(record.own_seconds)
        elif phase in record.shared_phases and phase in record.cost:
            seconds[labels].append(record.cost[phase]["seconds"])
    return {labels: fmean(values) for labels, values in seconds.items()}


def _dataset(item: Surrogate | Poison | Purified | Cell) -> ChosenPart[Dataset]:
    return item.poison.dataset if isinstance(item, Purified | Cell) else item.dataset


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
    """Return one byte per pixel value, two without a budget; nothing is stored for the clean attack."""
    width = 0 if poison.attack.name == CLEAN else 1 if poison.epsilon is not None else 2
    return width * data.train.images.numel()


def _purified_bytes(purified: Purified, data: MultiTaskData) -> int:
    """Return one byte per pixel value of the images that the defense does not own."""
    published: float = 1 - purified.defense.part.trusted
    return round(published * data.train.images.numel())


def _record_bytes(cell: Cell, data: MultiTaskData) -> int:
    return RECORD_BYTES + SCORES_BYTES * cell.recipe.epochs * len(data.tasks)


_WAVES: tuple[tuple[Wave, tuple[str, ...], str | None, Callable[[Any, MultiTaskData], int]], ...] = (
    ("surrogates", (), "surrogate", _surrogate_bytes),
    ("poisons", ("attack",), "craft", _poison_bytes),
    ("purified", ("defense",), "purify", _purified_bytes),
    ("cells", ("backbone",), None, _record_bytes),
)
"""Wave, axes besides the dataset that decide the time, phase that cells share, and bytes of an item."""
