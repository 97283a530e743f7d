"""What the phases of a cell cost, by attack and by part."""

from pandas import DataFrame, concat

from bench.record import AXES, POISON_PHASES
from leaderboard.frame import COSTS, cell_rows

DEPENDS_ON = {
    **dict.fromkeys(POISON_PHASES, ("attack",)),
    "purify": ("defense",),
    "train": ("backbone", "weighting", "defense", "regime"),
    "score": ("backbone", "regime"),
}
"""Phase → axes that can change what it costs, the one that is always shown first."""

ALL = "all"
"""Axis and part of a phase that costs the same under every part."""

_MEASURES = list(COSTS.values())


def cost_table(frame: DataFrame) -> DataFrame:
    """Return the mean cost of each phase.

    A phase is listed by the first axis it depends on, and by the others of `DEPENDS_ON` that have more than
    one value, over cells that differ in that axis (see `rows_where_axis_varies`). Making a poison
    counts once per poison. Victims that train on a part of the images alone are left out.

    Returns:
        Columns ``phase``, ``dataset``, ``axis``, ``part`` (label on that axis), ``s`` (seconds),
        ``images_per_s``, ``host_mb``, ``device_mb`` (peaks, MiB) and ``measured`` (how many were averaged);
        NaN where nothing was measured.
    """
    once = cell_rows(frame[~frame["clean_part"]])
    found = [column.removesuffix("_s") for column in once.columns if column.endswith("_s")]
    phases = [name for name in found if f"{name}_host_mb" in once.columns and once[f"{name}_s"].notna().any()]
    tables = []
    for name in phases:
        measured = once.drop_duplicates("poison") if name in POISON_PHASES else once
        first, *rest = DEPENDS_ON.get(name, (ALL,))
        tables.append(_by(measured.assign(all=ALL), name, first))
        tables += [
            _by(rows_where_axis_varies(measured, axis), name, axis)
            for axis in rest
            if once[axis].nunique() > 1
        ]
    columns = ["phase", "dataset", "axis", "part", *_MEASURES, "measured"]
    return concat(tables, ignore_index=True)[columns] if tables else DataFrame(columns=columns)


def rows_where_axis_varies(frame: DataFrame, axis: str) -> DataFrame:
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
