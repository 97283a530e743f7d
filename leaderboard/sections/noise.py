"""The noise of the attacks: how well it hides, how it clusters by class, whether a line separates it."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from pandas import DataFrame, Series

from bench.record import CLEAN
from leaderboard.formatting import (
    MAX_TASK_COLUMNS,
    NO_VALUE,
    drop_empty_columns,
    escape_markdown,
    format_number,
    format_percent,
    format_steps,
    is_missing,
    markdown_table,
    transpose_rows,
)
from leaderboard.frame import NOISE, TASK_NOISE
from leaderboard.sections.ranking import attack_order, track_marker


def noise_table(frame: DataFrame) -> DataFrame:
    """Return what is known of the noise of each attack, over its distinct poisons.

    An attack on some of the images shares its poison with the attack on all of them, and is then not listed.

    Returns:
        One row per dataset, attack (whole ones as ranked, then partial ones) and task, in the dataset's
        order: ``dataset``, ``attack``, ``task``, the numbers of `leaderboard.frame.NOISE` (``linf`` the
        largest, the others means; the same in all tasks of an attack) and of `leaderboard.frame.TASK_NOISE`.
    """
    rows = frame[(frame["attack"] != CLEAN) & ~frame["clean_part"]]
    rows = rows.sort_values("partial", kind="stable").drop_duplicates(["poison", "task"])
    how: dict[str, str] = dict.fromkeys((*NOISE, *TASK_NOISE, "position"), "mean") | {"linf": "max"}
    found = rows.groupby(["dataset", "attack", "task"]).agg(how).reset_index()
    ranked = attack_order(frame)
    order = [*ranked, *sorted(set(found["attack"]) - set(ranked))]
    found = found.assign(place=found["attack"].map(order.index))
    found = found.sort_values(["dataset", "place", "position", "task"], ignore_index=True)
    return found[["dataset", "attack", "task", *NOISE, *TASK_NOISE]]


def render_noise(frame: DataFrame) -> str:
    """Return the section on noise in markdown, nothing where nothing is known of any."""
    found = noise_table(frame)
    if not len(found):
        return ""
    marked = track_marker(frame)
    groups = found.groupby(["dataset", "attack"], sort=False)
    rows = [_noise_row(str(dataset), marked(str(attack)), some) for (dataset, attack), some in groups]
    legend = (
        "Of the images as released: l∞ is the largest change of a pixel, l2 the mean norm of an image's δ "
        "(pixels in [0, 1]), l0 the share of pixel values that changed, *clamped* the share that the attack "
        "wanted beyond the budget. Means over tasks: *linear* is the accuracy of a linear classifier that "
        "sees δ alone (in parentheses that of always answering the commonest class), *spread* the root mean "
        "square l2 distance of δ from the mean of its class, *distance* the l2 distance between the means of "
        "two classes."
    )
    parts = ["## Noise", markdown_table(drop_empty_columns(rows)), legend]
    for dataset, some in found.groupby("dataset"):
        parts += _noise_by_task(str(dataset), some, marked)
    return "\n\n".join(parts)


def _noise_row(dataset: str, attack: str, rows: DataFrame) -> dict[str, str]:
    first, means = rows.iloc[0], rows.mean(numeric_only=True)
    return {
        "dataset": dataset,
        "attack": attack,
        "l∞ /255": format_steps(first["linf"]),
        "l2": format_number(first["l2"]),
        "l0 %": format_percent(first["l0"]),
        "PSNR dB": format_number(first["psnr"]),
        "SSIM": NO_VALUE if is_missing(first["ssim"]) else f"{first['ssim']:.3f}",
        "clamped %": format_percent(first["clamped"]),
        "linear %": _linear(means),
        "spread": format_number(means["intra_spread"]),
        "distance": format_number(means["inter_distance"]),
    }


def _noise_by_task(dataset: str, found: DataFrame, marked: Callable[[str], str]) -> list[str]:
    known = found[found[list(TASK_NOISE)].notna().any(axis=1)]
    if not len(known):
        return []
    tasks = list(known["task"].drop_duplicates())
    lines = []
    for attack, rows in known.groupby("attack", sort=False):
        by_task = {row["task"]: row for row in rows.to_dict("records")}
        lines.append(
            {"attack": marked(str(attack))} | {task: _task_noise(by_task.get(task)) for task in tasks}
        )
    if len(tasks) > MAX_TASK_COLUMNS:
        lines = transpose_rows(lines)
    legend = "Spread / distance (linear %)."
    return [f"### Noise of {escape_markdown(dataset)}, every task", markdown_table(lines), legend]


def _task_noise(row: Mapping[Hashable, Any] | None) -> str:
    if row is None:
        return NO_VALUE
    shown = f"{format_number(row['intra_spread'])} / {format_number(row['inter_distance'])}"
    accuracy = row["linear_accuracy"]
    return shown if is_missing(accuracy) else f"{shown} ({format_percent(accuracy)})"


def _linear(means: "Series[float]") -> str:
    accuracy = format_percent(means["linear_accuracy"])
    return accuracy if accuracy == NO_VALUE else f"{accuracy} ({format_percent(means['linear_floor'])})"
