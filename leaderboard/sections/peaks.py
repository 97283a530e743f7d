"""The scores of the last and the best epoch."""

from pandas import DataFrame, concat

from leaderboard.formatting import format_score, join_blocks, markdown_table, metric_label
from leaderboard.ranking import sort_table, track_marker
from leaderboard.rows import dataset_names, default_victim_rows


def peak_and_last_scores(frame: DataFrame) -> DataFrame:
    """Return the raw headline score after the last epoch and at its best epoch, for the default victims.

    The best epoch is chosen on the test set, per task. It is an upper bound on what an exploiter could gain
    by early stopping.

    Returns:
        Columns ``dataset``, ``metric``, ``attack``, ``last``, ``peak``.
    """
    names, columns = ["dataset", "metric", "attack"], ["last", "peak"]
    rows = [default_victim_rows(frame, dataset) for dataset in dataset_names(frame)]
    if not rows:
        return DataFrame(columns=[*names, *columns])
    renamed = concat(rows).rename(columns={"headline": "metric", "raw": "last", "raw_peak": "peak"})
    return sort_table(renamed.groupby(names)[columns].mean().reset_index(), frame, names)


def render_peaks(frame: DataFrame) -> str:
    """Return the last and best scores in markdown, empty if there is no attack on all images and tasks."""
    mark = track_marker(frame)
    rows = [
        {
            "dataset": row["dataset"],
            "attack": mark(row["attack"]),
            "metric": metric_label(row["metric"]),
            "last": format_score(row["last"], row["metric"]),
            "best": format_score(row["peak"], row["metric"]),
        }
        for row in peak_and_last_scores(frame).to_dict("records")
    ]
    if not rows:
        return ""
    legend = (
        "Mean over tasks of the raw score after the last epoch and at each task's best epoch. The best epoch "
        "is chosen on the test set: it is an upper bound on what an exploiter could gain by early stopping. "
        "The victims are those of the tables above."
    )
    return join_blocks("## Last and best epoch", markdown_table(rows), legend)
