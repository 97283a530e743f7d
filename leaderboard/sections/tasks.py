"""Raw score and protection of every task, a table per dataset."""

from pandas import DataFrame, Series, concat

from leaderboard.formatting import (
    MAX_TASK_COLUMNS,
    cross_table,
    escape_markdown,
    format_count,
    format_score,
    join_blocks,
    metric_label,
    with_protection,
)
from leaderboard.frame import DERIVED
from leaderboard.ranking import attack_order, track_marker
from leaderboard.rows import dataset_names, default_victim_rows
from leaderboard.sections.dense import render_dense

FLOOR = "floor"
"""Label of the row of an answer that ignores the image."""


def scores_by_task(frame: DataFrame, dataset: str) -> DataFrame:
    """Return raw headline scores and protection per attack and task, for a dataset's default victims.

    Returns:
        Rows: ``floor``, ``clean``, then the attacks as ranked. Columns, two levels: (``raw``, task) and
        (``protection``, task) in the dataset's order, means over seeds (and victims, in a full matrix);
        (``mean``, ``raw``), NaN if the tasks have different metrics, and (``mean``, ``protection``).

    Raises:
        BenchError: for a dataset without rows.
    """
    rows = default_victim_rows(frame, dataset)
    tasks = list(rows.sort_values(["position", "task"])["task"].drop_duplicates())
    by_task = rows.groupby(["attack", "task"])
    raw, protection = by_task["raw"].mean().unstack(), by_task["protection"].mean().unstack()
    order = [attack for attack in attack_order(frame) if attack in raw.index]
    floor = rows.groupby("task")["floor_raw"].mean()[tasks]
    raw = concat([floor.to_frame(FLOOR).T, raw.loc[order, tasks]])
    protection = protection.reindex(raw.index)[tasks]
    one_metric = rows["headline"].nunique() == 1
    raw_mean = raw.mean(axis=1) if one_metric else Series(float("nan"), index=raw.index)
    mean = DataFrame({"raw": raw_mean, "protection": protection.mean(axis=1)})
    return concat({"raw": raw, "protection": protection, "mean": mean}, axis=1)


def render_tasks(frame: DataFrame) -> str:
    """Return the tables of all datasets in markdown, each with the metrics of its dense tasks."""
    return join_blocks(*(_render_tasks_of(frame, dataset) for dataset in dataset_names(frame)))


def _render_tasks_of(frame: DataFrame, dataset: str) -> str:
    scores, rows = scores_by_task(frame, dataset), default_victim_rows(frame, dataset)
    metrics = rows.sort_values("position").drop_duplicates("task").set_index("task")["headline"]
    mark = track_marker(frame)
    cells = {}
    for label, values in scores.iterrows():
        attack = mark(str(label))
        for task in scores["raw"].columns:
            text = format_score(values["raw", task], metrics[task])
            cells[attack, task] = with_protection(text, values["protection", task])
        if len(metrics) > 1:
            text = format_score(values["mean", "raw"], metrics.iloc[0])
            cells[attack, "mean"] = with_protection(text, values["mean", "protection"])
    return join_blocks(
        f"## {escape_markdown(dataset)}: every task",
        cross_table(cells, transposed=len(metrics) > MAX_TASK_COLUMNS),
        _legend(metrics, rows),
        render_dense(frame, dataset),
    )


def _legend(metrics: "Series[str]", rows: DataFrame) -> str:
    tasks_of = {metric: ", ".join(metrics.index[metrics == metric]) for metric in metrics.unique()}
    names = "; ".join(
        metric_label(metric) + (f" of {escape_markdown(tasks)}" if len(tasks_of) > 1 else "")
        for metric, tasks in tasks_of.items()
    )
    victims = []
    for axis in ("defense", "backbone", "weighting", "regime"):
        labels = sorted(rows[axis].unique())
        plural = "" if len(labels) == 1 else "s"
        victims.append(f"{axis}{plural} {escape_markdown(', '.join(labels))}")
    victims.append(format_count(rows["seed"].nunique(), "seed"))
    legend = f"Last epoch: {names}; protection in parentheses. Victims: {'; '.join(victims)}."
    if metrics.index.str.endswith(DERIVED).any():
        legend += " *Derived*: the labels were computed from those of another task, not measured."
    return legend
