"""How long items took: the times in a run's records, and which items are expected to take as long."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from bench.engine.planning.cell import AnyItem, ItemKind, dataset_of
from bench.engine.stages.context import RunContext, describe_environment
from bench.record import Record, read_records

MACHINE = ("cpu", "cpus", "device", "device_name", "precision", "compile")
"""A record's times count only if its environment has the same values as this machine."""

EARLIER = {"precision": "float32", "compile": False}
"""What records of earlier versions do not note."""

SHARED_PHASES: dict[ItemKind, str] = {"surrogates": "surrogate", "poisons": "craft", "purified": "purify"}
"""Kind → the phase of a record that was spent once for several cells; a cell has the rest."""

_TIMING_AXES: dict[ItemKind, tuple[str, ...]] = {
    "surrogates": (),
    "poisons": ("attack",),
    "purified": ("defense",),
    "cells": ("backbone", "weighting", "defense", "regime"),
}
"""Kind → axes besides the dataset that decide how long an item takes."""

TimingLabels = tuple[str, ...]
"""Kind, dataset and the labels on the axes that decide the time."""


def timing_labels(item: AnyItem) -> TimingLabels:
    """Return what decides how long an item takes: others with the same labels take about as long."""
    return (item.kind, *labels_on_axes(item, _TIMING_AXES[item.kind]))


def labels_on_axes(item: AnyItem, axes: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of an item's dataset and of its parts on some axes."""
    return (dataset_of(item).label, *(getattr(item, axis).label for axis in axes))


def measured_seconds(run_context: RunContext) -> dict[TimingLabels, float]:
    """Return the mean seconds of earlier items of a run's folder on this machine, by `timing_labels`."""
    records = read_timed_records(run_context)
    return {
        (kind, *labels): seconds
        for kind, axes in _TIMING_AXES.items()
        for labels, seconds in mean_seconds(records, axes, SHARED_PHASES.get(kind)).items()
    }


def read_timed_records(run_context: RunContext) -> list[Record]:
    """Return the records of a run's folder that were made on a machine like this one."""
    machine = describe_environment(run_context)
    return [
        record
        for record in read_records(run_context.store.records, curve=False)
        if isinstance(record, Record)
        and record.status == "done"
        and all({**EARLIER, **record.environment}.get(fact) == machine[fact] for fact in MACHINE)
    ]


def mean_seconds(
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
