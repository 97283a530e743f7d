"""Partial protection: attacks on some of the images, or some of the tasks, only."""

from pandas import DataFrame

from leaderboard.formatting import (
    format_count,
    format_protection,
    format_score,
    join_blocks,
    markdown_table,
    metric_label,
)
from leaderboard.ranking import track_marker
from leaderboard.statistics import seed_spread


def partial_images(frame: DataFrame) -> DataFrame:
    """Compare attacks on some of the images with training on the other images alone.

    The counterpart of a cell has the same victim and rate and the attack ``clean``: a victim that is trained
    on the clean part only. Means are over the cells with a counterpart (over all cells if none has one).

    Returns:
        One row per dataset, headline metric, rate and attack: ``dataset``, ``metric``, ``rate``, ``attack``,
        ``raw``, ``protection``, ``raw_alone``, ``protection_alone`` (of the clean part alone), ``difference``
        (of the protections) and ``spread`` (of the difference, standard deviation over seeds).
    """
    rows = frame[frame["rate"] < 1].rename(columns={"headline": "metric"})
    on = ["victim", "rate", "task"]
    alone = rows.loc[rows["clean_part"], [*on, "raw", "protection"]].drop_duplicates(on)
    pairs = rows[~rows["clean_part"]].merge(alone, on=on, how="left", suffixes=("", "_alone"))
    pairs["difference"] = pairs["protection"] - pairs["protection_alone"]
    means = ["raw", "protection", "raw_alone", "protection_alone", "difference"]
    labels = ["dataset", "metric", "rate", "attack"]
    table = []
    for names, group in pairs.groupby(labels):
        paired = group[group["raw_alone"].notna()]
        counted = paired if len(paired) else group
        spread = seed_spread(counted["difference"], counted["seed"])
        row = dict(zip(labels, names, strict=True)) | counted[means].mean().to_dict()
        table.append(row | {"spread": float("nan") if spread is None else spread})
    return DataFrame(table)


def partial_tasks(frame: DataFrame) -> DataFrame:
    """Compare the tasks that an attack on some of the tasks protects with the other tasks.

    Returns:
        One row per dataset and attack: ``dataset``, ``attack``, ``tasks`` (number of tasks),
        ``protected_tasks`` (number of protected ones), ``protected``, ``others`` (mean protection of both
        kinds).
    """
    rows = frame[~frame.groupby("key")["is_protected"].transform("all")]
    table = []
    for (dataset, attack), group in rows.groupby(["dataset", "attack"]):
        protected, others = group[group["is_protected"]], group[~group["is_protected"]]
        table.append(
            {
                "dataset": dataset,
                "attack": attack,
                "tasks": group["task"].nunique(),
                "protected_tasks": protected["task"].nunique(),
                "protected": protected["protection"].mean(),
                "others": others["protection"].mean(),
            }
        )
    return DataFrame(table)


def render_partial_protection(frame: DataFrame) -> str:
    """Return the section on partial protection in markdown, empty if no attack is partial."""
    images, tasks = _render_images(frame), _render_tasks(frame)
    if not images and not tasks:
        return ""
    legend = "Means over everything that was run; none of these attacks is ranked."
    return join_blocks("## Partial protection", images, tasks, legend)


def _render_images(frame: DataFrame) -> str:
    mark = track_marker(frame)
    rows = [
        {
            "dataset": row["dataset"],
            "attack": mark(row["attack"]),
            "rate": f"{row['rate']:.0%}",
            "metric": metric_label(row["metric"]),
            "raw": format_score(row["raw"], row["metric"]),
            "protection": format_protection(row["protection"]),
            "raw, clean part": format_score(row["raw_alone"], row["metric"]),
            "protection, clean part": format_protection(row["protection_alone"]),
            "difference": format_protection(row["difference"], row["spread"]),
        }
        for row in partial_images(frame).to_dict("records")
    ]
    legend = (
        "Attacks on some of the images, compared with the same victims trained on the clean part alone. A "
        "*difference* of protection of 0 means that the poisoned images taught nothing, below 0 that they "
        "still taught something, above 0 that they misled the victim."
    )
    return join_blocks(markdown_table(rows), legend) if rows else ""


def _render_tasks(frame: DataFrame) -> str:
    mark = track_marker(frame)
    rows = [
        {
            "dataset": row["dataset"],
            "attack": mark(row["attack"]),
            "protected": f"{row['protected_tasks']} of {format_count(row['tasks'], 'task')}",
            "protection of these": format_protection(row["protected"]),
            "of the others": format_protection(row["others"]),
        }
        for row in partial_tasks(frame).to_dict("records")
    ]
    legend = "Attacks on some of the tasks, crafted without the labels of the other tasks."
    return join_blocks(markdown_table(rows), legend) if rows else ""
