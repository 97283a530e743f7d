"""Protection by the value of an axis, a table per axis that varies."""

from pandas import DataFrame

from bench.errors import unknown_name_error
from bench.record import AXES, CLEAN
from leaderboard.formatting import cross_table, format_protection, join_blocks
from leaderboard.headline import protection_by_choice
from leaderboard.ranking import attack_order, track_marker
from leaderboard.rows import cell_rows, full_protection_rows, rows_where_axis_varies, varying_axes
from leaderboard.scores import SETTING_AXES


def protection_by_axis(frame: DataFrame, axis: str) -> DataFrame:
    """Return protection per attack (rows, best first) and value of an axis (columns), a mean over settings.

    The exploiter picks the defense, as in the ranking; by defense, it is the protection under each of them.
    Only the settings of the other axes under which the axis was varied are averaged (see
    `leaderboard.rows.rows_where_axis_varies`).

    Raises:
        BenchError: for ``attack``, ``seed`` or an unknown axis.
    """
    known = set(AXES) - {"attack", "seed"}
    if axis not in known:
        raise unknown_name_error("axis", axis, known)
    cells = rows_where_axis_varies(cell_rows(full_protection_rows(frame)), axis)
    choices = protection_by_choice(cells)
    if axis != "defense":
        choices = choices.groupby(level=["attack", *SETTING_AXES]).min()
    table = choices.groupby(level=["attack", axis]).mean().unstack(axis)
    attacks = [attack for attack in attack_order(frame) if attack != CLEAN]
    return table.reindex(index=attacks, columns=sorted(set(cells[axis])))


def render_axes(frame: DataFrame) -> str:
    """Return the tables of all axes that vary in markdown, empty if there is no attack."""
    return join_blocks(*(_render_axis(frame, axis) for axis in varying_axes(frame)))


def _render_axis(frame: DataFrame, axis: str) -> str:
    means = protection_by_axis(frame, axis)
    if not len(means):
        return ""
    mark = track_marker(frame)
    cells = {
        (mark(str(attack)), str(label)): format_protection(value)
        for attack, values in means.iterrows()
        for label, value in values.items()
    }
    return f"## Protection by {axis}\n\n{cross_table(cells)}"
