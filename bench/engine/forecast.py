"""How long a run will take, judged from what was timed in its folder before, and how much it will store."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from bench.api import Dataset, MultiTaskData
from bench.augmentation import seen_shape
from bench.engine.cell import Cell, Poison, Purified, Surrogate
from bench.engine.events import Wave
from bench.engine.pipeline import CHECKPOINTS, Workshop, environment, equidistant
from bench.engine.runner import Selection
from bench.errors import BenchError
from bench.net import MultiTaskNet
from bench.record import CLEAN, Record, read_records

MACHINE = ("cpu", "cpus", "device", "device_name")
"""What a record's environment must have in common with this machine's for its times to count."""

RECORD_BYTES, SCORES_BYTES = 5_000, 300
"""Of a record's file: all but the learning curve; one task in one epoch of the curve."""

Kind = Hashable
"""What things have in common that are expected to take as long."""


@dataclass(frozen=True)
class Expected:
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


def forecast(chosen: Selection, workshop: Workshop, jobs: int) -> Iterator[Expected]:
    """Yield what is expected of every wave, with so many jobs.

    A surrogate is expected to take what those of the same dataset took on average on this machine, a poison
    what those of the same dataset and attack took, a purified set what those of the same dataset and defense
    took, a cell what cells of the same dataset and backbone took. Of purified sets nothing is said where the
    suite has none.
    """
    machine = environment(workshop)
    records = [
        record
        for record in read_records(workshop.store.records, curve=False)
        if isinstance(record, Record)
        and record.status == "done"
        and all(record.environment.get(fact) == machine[fact] for fact in MACHINE)
    ]
    loaded = _Loaded(workshop)
    yield _expect(
        "surrogates",
        chosen.surrogates,
        _means((_at(r, "dataset"), _phase(r, "surrogate")) for r in records if "surrogate" in r.cost),
        lambda surrogate: (surrogate.dataset.label,),
        lambda surrogate: _surrogate_bytes(surrogate, loaded.of(surrogate.dataset.part)),
        jobs,
    )
    yield _expect(
        "poisons",
        chosen.poisons,
        _means((_at(r, "dataset", "attack"), _phase(r, "craft")) for r in records if "craft" in r.cost),
        lambda poison: (poison.dataset.label, poison.attack.label),
        lambda poison: _poison_bytes(poison, loaded.of(poison.dataset.part)),
        jobs,
    )
    if chosen.purified or chosen.cached["purified"]:
        yield _expect(
            "purified",
            chosen.purified,
            _means((_at(r, "dataset", "defense"), _phase(r, "purify")) for r in records if _has_set(r)),
            lambda one: (one.poison.dataset.label, one.defense.label),
            lambda one: _purified_bytes(one, loaded.of(one.poison.dataset.part)),
            jobs,
        )
    yield _expect(
        "cells",
        chosen.cells,
        _means((_at(r, "dataset", "backbone"), r.own_seconds) for r in records),
        lambda cell: (cell.poison.dataset.label, cell.backbone.label),
        lambda cell: _record_bytes(cell, loaded.of(cell.poison.dataset.part)),
        jobs,
    )


def warn_of_space(expected: Sequence[Expected], workshop: Workshop) -> str | None:
    """Return one sentence where the disk has less space than what is to be stored takes, else None."""
    folder = workshop.out.absolute()
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(each.stored for each in expected), shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"what is to be made takes {spell_bytes(needed)}, but only {spell_bytes(free)} are free on the disk "
        f"of {workshop.out}; make room there, or give another --out"
    )


def spell_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it: ``512 kB``, ``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class _Loaded:
    """Training sets, as far as they can be had at once: nothing is decoded for a forecast."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._data: dict[Dataset, MultiTaskData | None] = {}

    def of(self, part: Dataset) -> MultiTaskData | None:
        """Return what a dataset loads; None where it would have to be decoded first."""
        if part not in self._data:
            try:
                self._data[part] = part.load(self._workshop.data_root, self._workshop.cache, _refuse)
            except (_NotDecodedError, BenchError):
                self._data[part] = None
        return self._data[part]


class _NotDecodedError(Exception):
    """A dataset is not decoded yet."""


def _refuse(what: str, done: int, total: int) -> None:
    raise _NotDecodedError


def _surrogate_bytes(surrogate: Surrogate, data: MultiTaskData | None) -> int | None:
    if data is None:
        return None
    channels, height, width = data.train.images.shape[1:]
    shape = seen_shape((channels, height, width), data.augmentation)
    with torch.device("meta"):  # shapes without memory
        net = MultiTaskNet(surrogate.backbone.part, data.tasks, shape)
    kept = len(equidistant(surrogate.recipe.epochs, CHECKPOINTS))
    one: int = sum(tensor.nbytes for tensor in net.state_dict().values())
    return kept * one


def _poison_bytes(poison: Poison, data: MultiTaskData | None) -> int | None:
    """Return one byte per pixel value, two without a budget; of clean no table is stored."""
    if data is None:
        return None
    width = 0 if poison.attack.name == CLEAN else 1 if poison.epsilon is not None else 2
    return width * data.train.images.numel()


def _purified_bytes(purified: Purified, data: MultiTaskData | None) -> int | None:
    """Return one byte per pixel value of the images that the defense does not own."""
    if data is None:
        return None
    published: float = 1 - purified.defense.part.trusted
    return round(published * data.train.images.numel())


def _record_bytes(cell: Cell, data: MultiTaskData | None) -> int | None:
    return None if data is None else RECORD_BYTES + SCORES_BYTES * cell.recipe.epochs * len(data.tasks)


def _at(record: Record, *axes: str) -> Kind:
    return tuple(str(record.cell[axis]) for axis in axes)


def _phase(record: Record, phase: str) -> float:
    return record.cost[phase]["seconds"]


def _has_set(record: Record) -> bool:
    """Return whether a cell shares its cleaned images, and what they took, with others."""
    return "purify" in record.shared_phases and "purify" in record.cost


def _means(timed: Iterable[tuple[Kind, float]]) -> dict[Kind, float]:
    seconds: defaultdict[Kind, list[float]] = defaultdict(list)
    for kind, value in timed:
        seconds[kind].append(value)
    return {kind: fmean(values) for kind, values in seconds.items()}


def _expect(
    wave: Wave,
    items: Sequence[Any],
    means: dict[Kind, float],
    kind: Callable[[Any], Kind],
    size: Callable[[Any], int | None],
    jobs: int,
) -> Expected:
    known = [means[kind(item)] for item in items if kind(item) in means]
    sizes = [found for found in map(size, items) if found is not None]
    return Expected(
        wave,
        len(items),
        sum(known) / jobs,
        len(items) - len(known),
        sum(sizes),
        len(items) - len(sizes),
    )
