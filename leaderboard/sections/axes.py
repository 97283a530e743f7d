"""Mean protection by the value of an axis, a table per axis that varies."""

from pandas import DataFrame

from bench.errors import unknown_name_error
from bench.record import AXES, CLEAN
from leaderboard.formatting import cross_table, format_protection, join_blocks
from leaderboard.ranking import attack_order, unbounded_marker
from leaderboard.rows import cell_rows, full_protection_rows, rows_where_axis_varies, varying_axes


def protection_by_axis(frame: DataFrame, axis: str) -> DataFrame:
    """Return mean protection per attack (rows, best first) and value of an axis (columns).

    Only the settings of the other axes under which the axis was varied are averaged (see
    `leaderboard.rows.rows_where_axis_varies`).

    Raises:
        BenchError: for ``attack`` or an unknown axis.
    """
    if axis not in AXES or axis == "attack":
        raise unknown_name_error("axis", axis, set(AXES) - {"attack"})
    cells = rows_where_axis_varies(cell_rows(full_protection_rows(frame)), axis)
    table = cells.pivot_table(index="attack", columns=axis, values="protection", aggfunc="mean", dropna=False)
    return table.reindex([attack for attack in attack_order(frame) if attack != CLEAN])


def render_axes(frame: DataFrame) -> str:
    """Return the tables of all axes that vary in markdown, empty if there is no attack."""
    return join_blocks(*(_render_axis(frame, axis) for axis in varying_axes(frame)))


def _render_axis(frame: DataFrame, axis: str) -> str:
    means = protection_by_axis(frame, axis)
    if not len(means):
        return ""
    mark = unbounded_marker(frame)
    cells = {
        (mark(str(attack)), str(label)): format_protection(value)
        for attack, values in means.iterrows()
        for label, value in values.items()
    }
    return f"## Protection by {axis}\n\n{cross_table(cells)}"
