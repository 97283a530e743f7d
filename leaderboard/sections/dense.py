"""Dense tasks, for which the field reports several metrics each."""

from pandas import DataFrame

from leaderboard.formatting import cross_table, escape_markdown, format_score, metric_label
from leaderboard.frame import DERIVED, METRIC
from leaderboard.ranking import sort_table, track_marker
from leaderboard.rows import default_victim_rows

CLASSIFICATION = "classification"
"""Kind of the tasks with one label per image; all others are dense."""


def scores_by_metric(frame: DataFrame, dataset: str) -> DataFrame:
    """Return every metric of a dataset's dense tasks, for its default victims.

    Returns:
        One row per attack (``clean``, then as ranked), task (in the dataset's order) and metric (in the order
        of the field): ``attack``, ``task``, ``metric`` and ``value``, a mean over seeds (and victims, in a
        full matrix). Empty if no task is dense.

    Raises:
        BenchError: for a dataset without rows.
    """
    rows = default_victim_rows(frame, dataset)
    rows = rows[rows["kind"] != CLASSIFICATION]
    names = ["attack", "position", "task"]
    columns = [name for name in rows.columns if name.startswith(METRIC)]
    values = rows.melt(names, columns, "metric").dropna()
    values["metric"] = values["metric"].str.removeprefix(METRIC)
    means = values.groupby([*names, "metric"])["value"].mean().reset_index()
    return sort_table(means, frame, [*names, "metric"])[["attack", "task", "metric", "value"]]


def render_dense(frame: DataFrame, dataset: str) -> str:
    """Return the metrics of a dataset's dense tasks in markdown, empty if each has its headline only."""
    scores = scores_by_metric(frame, dataset)
    pairs = scores[["task", "metric"]].drop_duplicates()
    if len(pairs) == pairs["task"].nunique():
        return ""
    headers = {}
    for task, metric in pairs.itertuples(index=False):
        label, is_unique = metric_label(metric), (pairs["metric"] == metric).sum() == 1
        suffix = DERIVED if task.endswith(DERIVED) else ""
        headers[task, metric] = f"{label}{suffix}" if is_unique else f"{task}: {label}"
    mark = track_marker(frame)
    cells = {
        (mark(row["attack"]), headers[row["task"], row["metric"]]): format_score(row["value"], row["metric"])
        for row in scores.to_dict("records")
    }
    return f"### {escape_markdown(dataset)}: every metric of dense tasks\n\n{cross_table(cells)}"
