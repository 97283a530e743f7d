"""Protection of every attack by the value of another axis: the numbers of a heat map."""

from collections.abc import Sequence

from pandas import DataFrame

from bench.errors import unknown_name_error
from bench.record import AXES, CLEAN, NO_DEFENSE
from leaderboard.headline import protection_by_choice
from leaderboard.ranking import attack_order
from leaderboard.rows import cell_rows, full_protection_rows, rows_where_axis_varies
from leaderboard.scores import SETTING_AXES

HEATMAP_AXES = tuple(axis for axis in AXES if axis not in ("attack", "seed"))
"""The axes that attacks can be shown against."""


def heatmap_table(frame: DataFrame, axis: str, order: Sequence[str] | None = None) -> DataFrame:
    """Return protection per attack (rows, best first) and value of an axis (columns), a mean over settings.

    The exploiter picks the defense, as in the ranking; by defense, it is the protection under each of them.
    Only the settings of the other axes under which the axis was varied are averaged (see
    `leaderboard.rows.rows_where_axis_varies`).

    Args:
        frame: from `leaderboard.frame.to_frame`.
        axis: one of `HEATMAP_AXES`.
        order: the attacks in the order of the rows, by default that of the rankings.

    Returns:
        A row per attack but ``clean``, a column per label, sorted, defense ``none`` first; NaN where there is
        no protection.

    Raises:
        BenchError: for ``attack``, ``seed`` or an unknown axis.
    """
    if axis not in HEATMAP_AXES:
        raise unknown_name_error("axis", axis, set(HEATMAP_AXES))
    cells = rows_where_axis_varies(cell_rows(full_protection_rows(frame)), axis)
    choices = protection_by_choice(cells)
    if axis != "defense":
        choices = choices.groupby(level=["attack", *SETTING_AXES]).min()
    table = choices.groupby(level=["attack", axis]).mean().unstack(axis)
    known = set(frame.loc[~frame["partial"], "attack"].unique()) - {CLEAN}
    attacks = [attack for attack in order or attack_order(frame) if attack in known]
    labels = sorted(
        cells[axis].unique(), key=lambda label: (axis == "defense" and label != NO_DEFENSE, label)
    )
    return table.reindex(index=attacks, columns=labels)
