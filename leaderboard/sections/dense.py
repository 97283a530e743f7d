"""Dense tasks, of which the field reports several metrics each."""

from pandas import DataFrame

from leaderboard.formatting import (
    NO_VALUE,
    escape_markdown,
    format_score,
    markdown_table,
    metric_label,
    metric_order,
)
from leaderboard.frame import DERIVED, METRIC
from leaderboard.sections.ranking import attack_order, track_marker
from leaderboard.sections.tasks import usual_victims

CLASSIFICATION = "classification"
"""Kind of the tasks that ask for one answer per image; the others are dense."""


def scores_by_metric(frame: DataFrame, dataset: str) -> DataFrame:
    """Return every metric of a dataset's dense tasks, for the usual victims.

    Returns:
        One row per attack (``clean``, then as ranked), task (in the dataset's order) and metric (as the field
        lists them): ``attack``, ``task``, ``metric`` and ``value``, a mean over seeds (and victims, in a full
        matrix). None where no task is dense.

    Raises:
        BenchError: for a dataset that does not occur.
    """
    rows = usual_victims(frame, dataset)
    rows = rows[rows["kind"] != CLASSIFICATION]
    names = ["attack", "position", "task"]
    columns = [name for name in rows.columns if name.startswith(METRIC)]
    values = rows.melt(names, columns, "metric").dropna()
    values["metric"] = values["metric"].str.removeprefix(METRIC)
    means = values.groupby([*names, "metric"])["value"].mean().reset_index()
    places = means["attack"].map(attack_order(frame).index), means["metric"].map(metric_order)
    means = means.assign(first=places[0], last=places[1])
    means = means.sort_values(["first", "position", "task", "last"], ignore_index=True)
    return means[["attack", "task", "metric", "value"]]


def render_dense(frame: DataFrame, dataset: str) -> str:
    """Return the metrics of a dataset's dense tasks in markdown, nothing where headlines are all there is."""
    found = scores_by_metric(frame, dataset)
    pairs = found[["task", "metric"]].drop_duplicates()
    if len(pairs) == pairs["task"].nunique():
        return ""
    names = {}
    for task, metric in pairs.itertuples(index=False):
        alone = (pairs["metric"] == metric).sum() == 1
        mark = DERIVED if task.endswith(DERIVED) else ""
        names[task, metric] = f"{metric_label(metric)}{mark}" if alone else f"{task}: {metric_label(metric)}"
    marked = track_marker(frame)
    rows = []
    for attack, values in found.groupby("attack", sort=False):
        row = {"attack": marked(str(attack))} | dict.fromkeys(names.values(), NO_VALUE)
        for value in values.to_dict("records"):
            row[names[value["task"], value["metric"]]] = format_score(value["value"], value["metric"])
        rows.append(row)
    return f"### {escape_markdown(dataset)}: every metric of dense tasks\n\n{markdown_table(rows)}"
