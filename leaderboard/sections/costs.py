"""The cost of the phases of a cell, by attack and by the other parts it depends on."""

from pandas import DataFrame, concat

from bench.record import POISON_PHASES
from leaderboard.formatting import (
    format_number,
    format_with_spec,
    join_blocks,
    markdown_table,
)
from leaderboard.frame import COSTS
from leaderboard.rows import cell_rows, rows_where_axis_varies

COST_AXES = {
    **dict.fromkeys(POISON_PHASES, ("attack",)),
    "purify": ("defense",),
    "pretrain": ("defense", "backbone", "regime"),
    "train": ("backbone", "weighting", "defense", "regime"),
    "score": ("backbone", "regime"),
}
"""Phase → axes that its cost depends on. The first one is always shown, the others if they vary."""

ALL = "all"
"""Axis and part of a phase whose cost depends on no axis."""

_MEASURES = list(COSTS.values())


def cost_table(frame: DataFrame) -> DataFrame:
    """Return the mean cost of each phase.

    A phase is listed by the first of its `COST_AXES`, and by the others that have more than one value. For
    those only cells that differ in that axis count (see `leaderboard.rows.rows_where_axis_varies`). The cost
    of a poison counts once. Victims that are trained on the clean part of the images only are left out.

    Returns:
        Columns ``phase``, ``dataset``, ``axis``, ``part`` (label on that axis), ``s`` (seconds),
        ``images_per_s``, ``host_mb``, ``device_mb`` (peaks, MiB), NaN if not measured, and ``measured`` (how
        many measurements were averaged).
    """
    cells = cell_rows(frame[~frame["clean_part"]])
    names = [column.removesuffix("_s") for column in cells.columns if column.endswith("_s")]
    phases = [name for name in names if f"{name}_host_mb" in cells and cells[f"{name}_s"].notna().any()]
    tables = []
    for phase in phases:
        measured = cells.drop_duplicates("poison") if phase in POISON_PHASES else cells
        first, *others = COST_AXES.get(phase, (ALL,))
        tables.append(_mean_costs(measured.assign(all=ALL), phase, first))
        tables += [
            _mean_costs(rows_where_axis_varies(measured, axis), phase, axis)
            for axis in others
            if cells[axis].nunique() > 1
        ]
    columns = ["phase", "dataset", "axis", "part", *_MEASURES, "measured"]
    return concat(tables, ignore_index=True)[columns] if tables else DataFrame(columns=columns)


def render_costs(frame: DataFrame) -> str:
    """Return the costs in markdown, empty if none was measured."""
    rows = [
        {
            "phase": row["phase"],
            "dataset": row["dataset"],
            "by": row["axis"],
            "part": row["part"],
            "s": format_number(row["s"]),
            "img/s": format_number(row["images_per_s"]),
            "host MiB": format_with_spec(row["host_mb"], ".0f"),
            "device MiB": format_with_spec(row["device_mb"], ".0f"),
            "measured": str(row["measured"]),
        }
        for row in cost_table(frame).to_dict("records")
    ]
    if not rows:
        return ""
    legend = (
        "Means over all measurements: one per poison for surrogate and craft, one per cell for the others. "
        "Memory is the peak of the phase."
    )
    return join_blocks("## Costs", markdown_table(rows), legend)


def _mean_costs(cells: DataFrame, phase: str, axis: str) -> DataFrame:
    measured = cells[cells[f"{phase}_s"].notna()]
    names = {f"{phase}_{suffix}": suffix for suffix in _MEASURES}
    groups = measured.rename(columns=names).groupby(["dataset", axis])
    table = groups[_MEASURES].mean().assign(measured=groups.size()).reset_index()
    return table.rename(columns={axis: "part"}).assign(phase=phase, axis=axis)
