"""Raw scores by regime, as papers report them."""

from pandas import DataFrame

from bench.record import NO_DEFENSE
from leaderboard.formatting import (
    NO_VALUE,
    format_score,
    join_blocks,
    markdown_table,
    metric_label,
    with_protection,
)
from leaderboard.ranking import sort_table, track_marker
from leaderboard.rows import full_protection_rows, rows_where_axis_varies, varying_axes


def scores_by_regime(frame: DataFrame) -> DataFrame:
    """Return raw headline scores and protection under every regime.

    Victims have defense ``none`` if it was run. Only the settings under which the regime was varied are
    averaged (see `leaderboard.rows.rows_where_axis_varies`).

    Returns:
        One row per dataset, headline metric, attack (``clean``, then as ranked) and regime: ``dataset``,
        ``metric``, ``attack``, ``regime``, ``raw`` and ``protection``, means over tasks, then over cells.
    """
    rows = full_protection_rows(frame).rename(columns={"headline": "metric"})
    undefended = rows[rows["defense"] == NO_DEFENSE]
    rows = rows_where_axis_varies(undefended if len(undefended) else rows, "regime")
    names = ["dataset", "metric", "attack", "regime"]
    per_cell = rows.groupby([*names, "key"])[["raw", "protection"]].mean()
    return sort_table(per_cell.groupby(level=names).mean().reset_index(), frame, names)


def render_regimes(frame: DataFrame) -> str:
    """Return the raw scores by regime in markdown, empty if there is one regime only."""
    if "regime" not in varying_axes(frame):
        return ""
    scores, mark = scores_by_regime(frame), track_marker(frame)
    no_scores = dict.fromkeys(sorted(scores["regime"]), NO_VALUE)
    rows = []
    for (dataset, metric, attack), group in scores.groupby(["dataset", "metric", "attack"], sort=False):
        labels = {"dataset": dataset, "metric": metric_label(str(metric)), "attack": mark(str(attack))}
        texts = {
            row["regime"]: with_protection(format_score(row["raw"], row["metric"]), row["protection"])
            for row in group.to_dict("records")
        }
        rows.append(labels | no_scores | texts)
    legend = (
        "Mean over tasks of the raw score after the last epoch, protection in parentheses; without a defense "
        "if that was run. *mtl* is one network for all tasks, *stl* one network per task on the same images."
    )
    return join_blocks("## Raw score by regime", markdown_table(rows), legend)
