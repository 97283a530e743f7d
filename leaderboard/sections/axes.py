"""Protection by the value of an axis, a table per axis that varies."""

from pandas import DataFrame

from leaderboard.formatting import cross_table, format_protection, join_blocks
from leaderboard.heatmap_table import heatmap_table
from leaderboard.ranking import track_marker
from leaderboard.rows import varying_axes


def render_axes(frame: DataFrame) -> str:
    """Return the tables of all axes that vary in markdown, empty if there is no attack."""
    return join_blocks(*(_render_axis(frame, axis) for axis in varying_axes(frame)))


def _render_axis(frame: DataFrame, axis: str) -> str:
    means = heatmap_table(frame, axis)
    if not len(means):
        return ""
    mark = track_marker(frame)
    cells = {
        (mark(str(attack)), str(label)): format_protection(value)
        for attack, values in means.iterrows()
        for label, value in values.items()
    }
    return f"## Protection by {axis}\n\n{cross_table(cells)}"
