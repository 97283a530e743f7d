"""What the phases of a cell cost, by attack and by part."""

from pandas import DataFrame, concat

from bench.record import AXES
from leaderboard.frame import COSTS, cells

POISON_PHASES = ("surrogate", "craft")
"""Phases measured once per poison and repeated in the record of every cell that trains on it."""

VICTIM_AXES = ("backbone", "weighting", "defense", "regime")
"""Axes that can change what training a victim costs."""

_MEASURES = list(COSTS.values())


def costs(frame: DataFrame) -> DataFrame:
    """Return the mean cost of each phase.

    Making a poison is listed by attack, each distinct poison once; all else by backbone and by every other
    axis of the victim that has more than one value, over cells that differ in that axis (see `varied`).

    Returns:
        Columns ``phase``, ``dataset``, ``axis``, ``part`` (label on that axis), ``s`` (seconds),
        ``images_per_s``, ``host_mb``, ``device_mb`` (peaks, MiB) and ``measured`` (how many were averaged);
        NaN where nothing was measured.
    """
    once = cells(frame)
    found = [column.removesuffix("_s") for column in once.columns if column.endswith("_s")]
    phases = [name for name in found if f"{name}_host_mb" in once.columns and once[f"{name}_s"].notna().any()]
    tables = [_by(once.drop_duplicates("poison"), name, "attack") for name in phases if name in POISON_PHASES]
    for name in phases:
        if name not in POISON_PHASES:
            axes = [axis for axis in VICTIM_AXES if axis == "backbone" or once[axis].nunique() > 1]
            tables += [_by(varied(once, axis), name, axis) for axis in axes]
    columns = ["phase", "dataset", "axis", "part", *_MEASURES, "measured"]
    return concat(tables, ignore_index=True)[columns] if tables else DataFrame(columns=columns)


def varied(frame: DataFrame, axis: str) -> DataFrame:
    """Return the rows from which the values of an axis can be compared.

    Where a matrix varies one axis at a time around a default cell, the default's value on one axis occurs
    with every variant of the others, and the rest with the default alone. So only those settings of the
    other axes (attack and seed apart) are kept under which the axis takes more than one value; all rows
    where there is no such setting.
    """
    others = [other for other in AXES if other not in (axis, "attack", "seed")]
    kept = frame[frame.groupby(others)[axis].transform("nunique") > 1]
    return kept if len(kept) else frame


def _by(once: DataFrame, phase: str, axis: str) -> DataFrame:
    measured = once[once[f"{phase}_s"].notna()]
    names = {f"{phase}_{suffix}": suffix for suffix in _MEASURES}
    grouped = measured.rename(columns=names).groupby(["dataset", axis])
    table = grouped[_MEASURES].mean().assign(measured=grouped.size()).reset_index()
    return table.rename(columns={axis: "part"}).assign(phase=phase, axis=axis)
