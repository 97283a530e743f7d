"""How long a run will take, judged from what was timed in its folder before, and how much it will store."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TypeVar

import torch

from bench.api import Dataset, MultiTaskData
from bench.engine.planning.cell import Cell, ChosenPart, Poison, Purified, Surrogate, Wave
from bench.engine.planning.remaining_work import RemainingWork
from bench.engine.stages.context import RunContext, describe_environment
from bench.engine.stages.surrogate import MAX_SNAPSHOTS, equidistant_epochs
from bench.errors import BenchError
from bench.record import CLEAN, Record, read_records
from bench.text import format_bytes
from bench.training.augmentation import cropped_shape
from bench.training.net import MultiTaskNet

MACHINE = ("cpu", "cpus", "device", "device_name")
"""What a record's environment must have in common with this machine's for its times to count."""

RECORD_BYTES, SCORES_BYTES = 5_000, 300
"""Of a record's file: all but the learning curve; one task in one epoch of the curve."""

Item = TypeVar("Item", bound=Surrogate | Poison | Purified | Cell)


@dataclass(frozen=True)
class WaveEstimate:
    """What is expected of a wave.

    Attributes:
        wave: its name.
        count: things to do.
        seconds: for those like which something was timed, with as many at a time as there are jobs.
        untimed: the others.
        stored: bytes on the disk, for those whose size is known.
        unsized: the others, on datasets that are not decoded yet.
    """

    wave: Wave
    count: int
    seconds: float
    untimed: int
    stored: int
    unsized: int


def estimate_waves(chosen: RemainingWork, run_context: RunContext, jobs: int) -> Iterator[WaveEstimate]:
    """Yield what is expected of every wave, with so many jobs.

    A surrogate is expected to take what those of the same dataset took on average on this machine, a poison
    what those of the same dataset and attack took, a purified set what those of the same dataset and defense
    took, a cell what cells of the same dataset and backbone took. Of purified sets nothing is said where the
    suite has none.
    """
    machine = describe_environment(run_context)
    records = [
        record
        for record in (read_records(run_context.store.records, curve=False) if chosen.cells else ())
        if isinstance(record, Record)
        and record.status == "done"
        and all(record.environment.get(fact) == machine[fact] for fact in MACHINE)
    ]
    loaded: dict[Dataset, MultiTaskData | None] = {}

    def expect(
        wave: Wave,
        items: Sequence[Item],
        axes: Sequence[str],
        seconds: Callable[[Record], float | None],
        size: Callable[[Item, MultiTaskData], int],
    ) -> WaveEstimate:
        timed = defaultdict(list)
        for record in records:
            if (took := seconds(record)) is not None:
                timed[tuple(str(record.cell[axis]) for axis in ("dataset", *axes))].append(took)
        means = {like: fmean(values) for like, values in timed.items()}
        known, sizes = [], []
        for item in items:
            dataset = _dataset(item)
            like = (dataset.label, *(getattr(item, axis).label for axis in axes))
            if like in means:
                known.append(means[like])
            if dataset.part not in loaded:
                loaded[dataset.part] = _load_if_decoded(dataset.part, run_context)
            if (data := loaded[dataset.part]) is not None:
                sizes.append(size(item, data))
        untimed, unsized = len(items) - len(known), len(items) - len(sizes)
        return WaveEstimate(wave, len(items), sum(known) / jobs, untimed, sum(sizes), unsized)

    yield expect(
        "surrogates", chosen.surrogates, (), partial(_shared_phase_seconds, "surrogate"), _surrogate_bytes
    )
    yield expect(
        "poisons", chosen.poisons, ("attack",), partial(_shared_phase_seconds, "craft"), _poison_bytes
    )
    if chosen.purified or chosen.cached["purified"]:
        yield expect(
            "purified",
            chosen.purified,
            ("defense",),
            partial(_shared_phase_seconds, "purify"),
            _purified_bytes,
        )
    yield expect("cells", chosen.cells, ("backbone",), lambda record: record.own_seconds, _record_bytes)


def check_disk_space(expected: Sequence[WaveEstimate], run_context: RunContext) -> str | None:
    """Return one sentence where the disk has less space than what is to be stored takes, else None."""
    folder = run_context.out
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(each.stored for each in expected), shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"what is to be made takes {format_bytes(needed)}, but only {format_bytes(free)} are free on the "
        f"disk of {run_context.out}; make room there, or give another --out"
    )


def _dataset(item: Surrogate | Poison | Purified | Cell) -> ChosenPart[Dataset]:
    return item.poison.dataset if isinstance(item, Purified | Cell) else item.dataset


def _shared_phase_seconds(phase: str, record: Record) -> float | None:
    """Return the seconds of a phase that cells share; None where a cell has it for itself, or not at all."""
    shared = phase in record.shared_phases and phase in record.cost
    return record.cost[phase]["seconds"] if shared else None


class _NotDecodedError(Exception):
    """A dataset is not decoded yet."""


def _refuse(what: str, done: int, total: int) -> None:
    raise _NotDecodedError


def _load_if_decoded(part: Dataset, run_context: RunContext) -> MultiTaskData | None:
    """Return what a dataset loads at once; None where it would have to be decoded first."""
    try:
        return part.load(run_context.data_root, run_context.cache, _refuse)
    except (_NotDecodedError, BenchError):
        return None


def _surrogate_bytes(surrogate: Surrogate, data: MultiTaskData) -> int:
    channels, height, width = data.train.images.shape[1:]
    shape = cropped_shape((channels, height, width), data.augmentation)
    with torch.device("meta"):  # shapes without memory
        net = MultiTaskNet(surrogate.backbone.part, data.tasks, shape)
    kept = len(equidistant_epochs(surrogate.recipe.epochs, MAX_SNAPSHOTS))
    one: int = sum(tensor.nbytes for tensor in net.state_dict().values())
    return kept * one


def _poison_bytes(poison: Poison, data: MultiTaskData) -> int:
    """Return one byte per pixel value, two without a budget; of clean no table is stored."""
    width = 0 if poison.attack.name == CLEAN else 1 if poison.epsilon is not None else 2
    return width * data.train.images.numel()


def _purified_bytes(purified: Purified, data: MultiTaskData) -> int:
    """Return one byte per pixel value of the images that the defense does not own."""
    published: float = 1 - purified.defense.part.trusted
    return round(published * data.train.images.numel())


def _record_bytes(cell: Cell, data: MultiTaskData) -> int:
    return RECORD_BYTES + SCORES_BYTES * cell.recipe.epochs * len(data.tasks)
