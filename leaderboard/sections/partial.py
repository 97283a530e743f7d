"""Partial protection: attacks on some of the images, or some of the tasks, only."""

from pandas import DataFrame

from leaderboard.formatting import format_count, format_protection, format_score, markdown_table, metric_label
from leaderboard.sections.ranking import track_marker
from leaderboard.statistics import seed_spread


def partial_images(frame: DataFrame) -> DataFrame:
    """Compare attacks on some of the images with training on the images they leave alone.

    The counterpart of a cell is that with the same victim and rate and the attack ``clean``: a victim that
    finds only the clean part. Means are over the cells that have one (all of them where none has).

    Returns:
        One row per dataset, headline metric and attack: ``dataset``, ``metric``, ``attack``, ``rate``,
        ``raw``, ``protection``, ``raw_alone``, ``protection_alone`` (of the clean part alone), ``difference``
        (of the protections) and ``spread`` (of the difference, standard deviation over seeds).
    """
    rows = frame[frame["rate"] < 1]
    on = ["victim", "rate", "task"]
    alone = rows.loc[rows["clean_part"], [*on, "raw", "protection"]].drop_duplicates(on)
    pairs = rows[~rows["clean_part"]].merge(alone, on=on, how="left", suffixes=("", "_alone"))
    pairs["difference"] = pairs["protection"] - pairs["protection_alone"]
    found = [
        {"dataset": dataset, "metric": metric, "rate": rate, "attack": attack, **_beside_alone(group)}
        for (dataset, metric, rate, attack), group in pairs.groupby(["dataset", "headline", "rate", "attack"])
    ]
    return DataFrame(found)


def _beside_alone(pairs: DataFrame) -> dict[str, float]:
    both = pairs[pairs["raw_alone"].notna()]
    shown = both if len(both) else pairs
    means = {
        column: shown[column].mean() for column in ("raw", "protection", "raw_alone", "protection_alone")
    }
    spread = seed_spread(shown["difference"], shown["seed"])
    return {
        **means,
        "difference": shown["difference"].mean(),
        "spread": float("nan") if spread is None else spread,
    }


def partial_tasks(frame: DataFrame) -> DataFrame:
    """Compare the tasks that an attack on some of the tasks protects with those it leaves alone.

    Returns:
        One row per dataset and attack: ``dataset``, ``attack``, ``tasks`` (how many there are),
        ``protected_tasks`` (how many of them are protected), ``protected``, ``others`` (mean protection of
        both kinds).
    """
    rows = frame[~frame.groupby("key")["is_protected"].transform("all")]
    return DataFrame(
        [
            {
                "dataset": dataset,
                "attack": attack,
                "tasks": group["task"].nunique(),
                "protected_tasks": group.loc[group["is_protected"], "task"].nunique(),
                "protected": group.loc[group["is_protected"], "protection"].mean(),
                "others": group.loc[~group["is_protected"], "protection"].mean(),
            }
            for (dataset, attack), group in rows.groupby(["dataset", "attack"])
        ]
    )


def render_partial(frame: DataFrame) -> str:
    """Return the section on partial protection in markdown, nothing where no attack is partial."""
    images, tasks = partial_images(frame), partial_tasks(frame)
    if not len(images) and not len(tasks):
        return ""
    marked = track_marker(frame)
    parts = ["## Partial protection"]
    if len(images):
        rows = [
            {
                "dataset": row["dataset"],
                "attack": marked(row["attack"]),
                "rate": f"{row['rate']:.0%}",
                "metric": metric_label(row["metric"]),
                "raw": format_score(row["raw"], row["metric"]),
                "protection": format_protection(row["protection"]),
                "raw, clean part": format_score(row["raw_alone"], row["metric"]),
                "protection, clean part": format_protection(row["protection_alone"]),
                "difference": format_protection(row["difference"], row["spread"]),
            }
            for row in images.to_dict("records")
        ]
        legend = (
            "Attacks on a part of the images, beside the same victims trained on the clean part alone. Where "
            "the *difference* of protection is 0 the poisoned images taught nothing, below 0 they still did, "
            "above 0 they misled besides."
        )
        parts += [markdown_table(rows), legend]
    if len(tasks):
        rows = [
            {
                "dataset": row["dataset"],
                "attack": marked(row["attack"]),
                "protected": f"{row['protected_tasks']} of {format_count(row['tasks'], 'task')}",
                "protection of these": format_protection(row["protected"]),
                "of the others": format_protection(row["others"]),
            }
            for row in tasks.to_dict("records")
        ]
        parts += [
            markdown_table(rows),
            "Attacks on a part of the tasks, made without the labels of the others.",
        ]
    return "\n\n".join([*parts, "Means over everything that was run; none of these attacks is ranked."])
