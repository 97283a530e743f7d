"""The noise of the attacks: how visible it is, how it clusters by class, whether it is linearly separable."""

from collections.abc import Sequence

from pandas import DataFrame, Series

from bench.record import CLEAN
from leaderboard.formatting import (
    MAX_TASK_COLUMNS,
    NO_VALUE,
    Bold,
    cross_table,
    escape_markdown,
    format_number,
    format_percent,
    format_with_spec,
    join_blocks,
    markdown_table,
)
from leaderboard.frame import NOISE, TASK_NOISE
from leaderboard.ranking import sort_table, track_marker

MAX_LOST = 0.25
"""Share of values lost to rounding above which an attack is flagged; uniform noise at 8/255 loses 0.06."""

MIN_HIT_RATE = 0.9
"""Share of labels, on the attack's own surrogate, below which an attack is flagged."""


def noise_table(frame: DataFrame) -> DataFrame:
    """Return the measured properties of the noise of each attack, over its distinct poisons.

    An attack on some of the images has the same poison as the attack on all images. It is listed only if the
    latter was not run.

    Returns:
        One row per dataset, attack (ranked ones first) and task, in the dataset's order: ``dataset``,
        ``attack``, ``task``, the columns of `leaderboard.frame.NOISE` (``linf`` the largest, the others
        means; the same for all tasks of an attack) and of `leaderboard.frame.TASK_NOISE`.
    """
    rows = frame[(frame["attack"] != CLEAN) & ~frame["clean_part"]]
    rows = rows.sort_values("partial", kind="stable").drop_duplicates(["poison", "task"])
    columns = [*NOISE, *TASK_NOISE]
    how: dict[str, str] = dict.fromkeys([*columns, "position"], "mean") | {"linf": "max"}
    means = rows.groupby(["dataset", "attack", "task"]).agg(how).reset_index()
    table = sort_table(means, frame, ["dataset", "attack", "position", "task"])
    return table[["dataset", "attack", "task", *columns]]


def render_noise(frame: DataFrame) -> str:
    """Return the section on noise in markdown, empty if there is no attack."""
    table, mark = noise_table(frame), track_marker(frame)
    if not len(table):
        return ""
    table["attack"] = table["attack"].map(mark)
    groups = table.groupby(["dataset", "attack"], sort=False)
    rows = [_summary_row(str(dataset), str(attack), group) for (dataset, attack), group in groups]
    flags = (_explain_flags(str(dataset), group) for dataset, group in table.groupby("dataset", sort=False))
    legend = (
        "Of the released images: l∞ is the largest change of a pixel, l2 the mean norm of δ (pixels in "
        "[0, 1]), l0 the share of pixel values that changed, *clamped* the share that the attack wanted to "
        "change by more than the budget, *lost* the share that it wanted to change by less than half a step "
        "of 1/255, which rounding undoes. At the end of crafting, *loss* is the attack's own loss on its "
        "surrogates, and *hit* the share of labels on which the last surrogate does what the attack wants. "
        "Means over tasks: *linear* is the accuracy of a linear classifier "
        "that sees only δ (in parentheses the accuracy of always answering the most common class), *spread* "
        "the root mean square l2 distance of δ from the mean of its class, *distance* the l2 distance "
        "between the means of two classes."
    )
    if table["scaled"].notna().any():
        legend += " *Scaled* is the share of images whose δ was longer than the budget for its norm."
    by_task = [_render_task_noise(str(dataset), group) for dataset, group in table.groupby("dataset")]
    return join_blocks("## Noise", markdown_table(rows), legend, *flags, *by_task)


def unfinished_attacks(frame: DataFrame) -> set[str]:
    """Return the attacks whose crafting may be unfinished: on some dataset they reach less than their aim."""
    rows = frame[(frame["attack"] != CLEAN) & ~frame["clean_part"]]
    hits = rows.drop_duplicates(["poison", "attack"]).groupby(["dataset", "attack"])["hit_rate"].mean()
    return set(hits.index.get_level_values("attack")[hits < MIN_HIT_RATE])


def _explain_flags(dataset: str, table: DataFrame) -> str:
    """Return what a dataset's flagged attacks mean, empty if there is none."""
    lost = list(table.loc[table["lost_to_rounding"] > MAX_LOST, "attack"].unique())
    unfinished = list(table.loc[table["hit_rate"] < MIN_HIT_RATE, "attack"].unique())
    sentences = []
    if lost:
        sentences.append(
            f"Rounding undoes more than {MAX_LOST:.0%} of the values of δ of {_list_attacks(lost)}: that "
            "noise is too fine for images of 8 bits."
        )
    if unfinished:
        sentences.append(
            f"*hit* is below {MIN_HIT_RATE:.0%} for {_list_attacks(unfinished)}: the crafting may be "
            "unfinished, and more steps or rounds may make the attack stronger. An attack with a higher "
            "*hit* has reached its aim; if it protects little, it is weak."
        )
    return f"**{escape_markdown(dataset)}.** {' '.join(sentences)}" if sentences else ""


def _list_attacks(attacks: Sequence[str]) -> str:
    return ", ".join(f"*{escape_markdown(attack)}*" for attack in attacks)


def _summary_row(dataset: str, attack: str, rows: DataFrame) -> dict[str, str]:
    first, means = rows.iloc[0], rows.mean(numeric_only=True)
    linear = format_percent(means["linear_accuracy"])
    return {
        "dataset": dataset,
        "attack": attack,
        "l∞ /255": format_with_spec(first["linf"], ".3g"),
        "l2": format_number(first["l2"]),
        "l0 %": format_percent(first["l0"]),
        "PSNR dB": format_number(first["psnr"]),
        "SSIM": format_with_spec(first["ssim"], ".3f"),
        "clamped %": format_percent(first["clamped"]),
        "scaled %": format_percent(first["scaled"]),
        "lost %": _flag(format_percent(first["lost_to_rounding"]), first["lost_to_rounding"] > MAX_LOST),
        "loss": format_number(first["surrogate_loss"]),
        "hit %": _flag(format_percent(first["hit_rate"]), first["hit_rate"] < MIN_HIT_RATE),
        "linear %": linear if linear == NO_VALUE else f"{linear} ({format_percent(means['linear_floor'])})",
        "spread": format_number(means["intra_spread"]),
        "distance": format_number(means["inter_distance"]),
    }


def _flag(text: str, is_flagged: bool) -> str:
    return Bold(text) if is_flagged else text


def _render_task_noise(dataset: str, table: DataFrame) -> str:
    measured = table[table[list(TASK_NOISE)].notna().any(axis=1)]
    if not len(measured):
        return ""
    cells = {(row["attack"], row["task"]): _format_task_noise(row) for _, row in measured.iterrows()}
    title = f"### Noise of {escape_markdown(dataset)}, every task"
    is_wide = measured["task"].nunique() > MAX_TASK_COLUMNS
    return join_blocks(title, cross_table(cells, transposed=is_wide), "Spread / distance (linear %).")


def _format_task_noise(row: "Series[float]") -> str:
    text = f"{format_number(row['intra_spread'])} / {format_number(row['inter_distance'])}"
    linear = format_percent(row["linear_accuracy"])
    return text if linear == NO_VALUE else f"{text} ({linear})"
