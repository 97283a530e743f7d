"""The leaderboard as a markdown page, and its rows as CSV and JSON.

The text depends on the records alone, not on their order, so that a committed page shows real changes only.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, isna

from bench.record import AXES, CLEAN, Record
from leaderboard.comparison import Comparison
from leaderboard.formatting import (
    DAGGER,
    MAX_TASK_COLUMNS,
    NO_VALUE,
    drop_empty_columns,
    escape_markdown,
    format_count,
    format_integer,
    format_number,
    format_protection,
    format_score,
    format_steps,
    is_missing,
    markdown_table,
    metric_label,
    metric_order,
    transpose_rows,
)
from leaderboard.frame import (
    DERIVED,
    SelectedRecords,
    cell_rows,
    full_protection_rows,
    select_records,
    to_frame,
)
from leaderboard.scores import MIN_HEADROOM
from leaderboard.sections.costs import cost_table
from leaderboard.sections.defenses import render_defenses
from leaderboard.sections.dense import render_dense
from leaderboard.sections.noise import render_noise
from leaderboard.sections.partial import render_partial
from leaderboard.sections.published import render_published
from leaderboard.sections.ranking import rank_attacks, track_marker
from leaderboard.sections.tasks import (
    peak_and_last_scores,
    protection_by_axis,
    scores_by_regime,
    scores_by_task,
    usual_victims,
    varying_axes,
)

PROTECTION = (
    "**Protection** of a task is (clean - poisoned) / (clean - floor), where *clean* is the score of the "
    "same victim trained on clean data and *floor* that of an answer which knows nothing of the image: "
    "1 means that nothing was learned, 0 that the attack had no effect, above 1 that the victim was misled."
)


def render_board(records: Iterable[Record], left_out: Sequence[str] = ()) -> str:
    """Return the whole board in markdown.

    Args:
        records: of one protocol, finished and failed, in any order.
        left_out: one sentence for each thing that should be here and is not, such as a damaged file.

    Raises:
        BenchError: when the records follow more than one protocol.
    """
    records = list(records)
    chosen, frame = select_records(records), to_frame(records)
    sections = [_head(chosen, frame)]
    if len(frame):
        sections += [_ranking(frame), _unbounded(frame)]
        sections += [
            _dataset(frame, dataset) for dataset in sorted(set(full_protection_rows(frame)["dataset"]))
        ]
        sections += [_axis(frame, axis) for axis in varying_axes(frame)]
        sections += [render_defenses(frame), _regimes(frame)]
        sections += [render_published(frame, chosen.done), _peaks(frame)]
        sections += [render_partial(frame), render_noise(frame), _costs(frame)]
    sections += [_failed(chosen.failed), _notes(frame, chosen, left_out)]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_comparison(comparison: Comparison) -> str:
    """Return a comparison in markdown: the verdict in one sentence, then a row per task."""
    a, b = escape_markdown(comparison.a), escape_markdown(comparison.b)
    rows = [
        {
            "dataset": row["dataset"],
            "task": row["task"],
            comparison.a: format_protection(row["protection_a"]),
            comparison.b: format_protection(row["protection_b"]),
            "difference": _with_interval(row["protection"], row["low"], row["high"]),
            f"{comparison.a} wins/ties/losses": f"{row['wins']}/{row['ties']}/{row['losses']}",
            "metric": metric_label(row["metric"]),
            f"raw {comparison.a}": format_score(row["raw_a"], row["metric"]),
            f"raw {comparison.b}": format_score(row["raw_b"], row["metric"]),
            "raw difference": format_score(row["raw"], row["metric"]),
        }
        for row in comparison.tasks.to_dict("records")
    ]
    overall = comparison.overall
    counts = (
        f"{comparison.cells} cells of each side are paired (equal in all axes but {comparison.axis}); "
        f"without a counterpart: {comparison.only_a} of {a}, {comparison.only_b} of {b}. "
        f"Over the paired cells {a} wins {overall.wins}, ties {overall.ties} and loses {overall.losses}."
    )
    if overall.p_value is not None:
        counts += f" Sign-flip test over seeds: p = {overall.p_value:.2g}."
    if comparison.unbounded is not None:
        counts += (
            f" {escape_markdown(comparison.unbounded)} keeps to no budget and is in a track of its own: "
            "this does not rank the two."
        )
    return (
        "\n\n".join([f"# {a} against {b}", escape_markdown(comparison.verdict), markdown_table(rows), counts])
        + "\n"
    )


def to_csv(frame: DataFrame) -> str:
    """Return the tidy table as CSV, missing values empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_json(frame: DataFrame) -> str:
    """Return the tidy table as a JSON list of rows, missing values null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return json.dumps(rows, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    if is_missing(mean) or is_missing(low):
        return format_protection(mean)
    return f"{mean:z.2f} [{low:z.2f}, {high:z.2f}]"


def _head(chosen: SelectedRecords, frame: DataFrame) -> str:
    if not chosen.done:
        return "# Leaderboard\n\nNo cell is finished yet."
    suites = ", ".join(sorted({record.suite for record in chosen.done}))
    seeds = frame["seed"].nunique()
    facts = (
        f"{len(chosen.done)} cells of suite {escape_markdown(suites)}, {format_count(seeds, 'seed')}, "
        f"protocol {chosen.done[0].protocol}."
    )
    return f"# Leaderboard\n\n{facts}\n\n{PROTECTION}"


def _ranking(frame: DataFrame) -> str:
    ranked = rank_attacks(frame)
    if not len(ranked):
        return ""
    spread = "; ± is the standard deviation over seeds" if ranked["spread"].notna().any() else ""
    legend = (
        "The defender picks the defense: *worst case* is the least protection over the defenses, averaged "
        f"over everything else; *mean* is over the defenses too{spread}. *Defenses* is how many a worst case "
        "is over, *undefined* how many scores of tasks have no protection and are left out. Raw scores "
        "are without a defense where that was run; better protected means a lower score, but a higher error "
        f"or angle. Memory is the peak while crafting, l∞ the largest change of a pixel. {CLEAN} is the "
        "reference and is not ranked."
    )
    return "\n\n".join(["## Ranking", _ranked(ranked), legend])


def _unbounded(frame: DataFrame) -> str:
    ranked = rank_attacks(frame, bounded=False)
    if not (ranked["attack"] != CLEAN).any():
        return ""
    legend = (
        "Attacks that keep to no budget: what they change may be plain to see, so they are ranked among "
        f"themselves only. Columns as above. {DAGGER} marks them in the tables that all attacks share."
    )
    return "\n\n".join(["## Ranking, unbounded track", _ranked(ranked), legend])


def _ranked(ranked: DataFrame) -> str:
    raw = [str(column) for column in ranked if str(column).startswith("raw_")]
    metrics = sorted((column.removeprefix("raw_") for column in raw), key=metric_order)
    return markdown_table(
        drop_empty_columns([_ranking_row(row, metrics) for row in ranked.to_dict("records")])
    )


def _ranking_row(row: Mapping[Hashable, Any], metrics: Sequence[str]) -> dict[str, str]:
    reference = row["attack"] == CLEAN
    return {
        "#": NO_VALUE if isna(row["rank"]) else str(row["rank"]),
        "attack": row["attack"],
        "worst case": format_protection(row["worst"], None if reference else row["spread"]),
        "worst defense": NO_VALUE if reference or isna(row["worst_defense"]) else row["worst_defense"],
        "defenses": _span(row["defenses_min"], row["defenses_max"]),
        "mean": format_protection(row["mean"]),
        **{metric_label(metric): format_score(row[f"raw_{metric}"], metric) for metric in metrics},
        "cells": str(row["cells"]),
        "undefined": str(row["undefined"]),
        # The clean "attack" copies the images; what that takes says nothing.
        "craft s": NO_VALUE if reference else format_number(row["craft_s"]),
        "craft img/s": NO_VALUE if reference else format_number(row["craft_images_per_s"]),
        "host MiB": NO_VALUE if reference else format_integer(row["craft_host_mb"]),
        "device MiB": NO_VALUE if reference else format_integer(row["craft_device_mb"]),
        "l∞ /255": format_steps(row["linf"]),
    }


def _dataset(frame: DataFrame, dataset: str) -> str:
    wide = scores_by_task(frame, dataset)
    rows = usual_victims(frame, dataset)
    metrics = rows.sort_values("position").drop_duplicates("task").set_index("task")["headline"]
    tasks = list(wide["raw"].columns)
    one = metrics.nunique() == 1
    lines = []
    marked = track_marker(frame)
    for attack, values in wide.iterrows():
        line = {"attack": marked(str(attack))}
        for task in tasks:
            line[task] = _cell(values["raw", task], metrics[task], values["protection", task])
        if len(tasks) > 1:
            line["mean"] = _cell(values["mean", "raw"], metrics.iloc[0], values["mean", "protection"])
        lines.append(line)
    if len(tasks) > MAX_TASK_COLUMNS:
        lines = transpose_rows(lines)
    what = "; ".join(
        metric_label(metric)
        + ("" if one else f" of {escape_markdown(', '.join(metrics.index[metrics == metric]))}")
        for metric in metrics.unique()
    )
    legend = f"Last epoch: {what}; protection in parentheses. {_victims(rows)}"
    if metrics.index.str.endswith(DERIVED).any():
        legend += " *Derived*: what is asked for was computed from another task's truth, not measured."
    parts = [
        f"## {escape_markdown(dataset)}: every task",
        markdown_table(lines),
        legend,
        render_dense(frame, dataset),
    ]
    return "\n\n".join(part for part in parts if part)


def _cell(raw: float, metric: str, value: float) -> str:
    shown = format_score(raw, metric)
    return shown if is_missing(value) else f"{shown} ({format_protection(value)})"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _victims(rows: DataFrame) -> str:
    parts = []
    for axis in ("defense", "backbone", "weighting", "regime"):
        labels = sorted(set(rows[axis]))
        plural = axis if len(labels) == 1 else f"{axis}s"
        parts.append(f"{plural} {escape_markdown(', '.join(labels))}")
    return f"Victims: {'; '.join(parts)}; {format_count(rows['seed'].nunique(), 'seed')}."


def _axis(frame: DataFrame, axis: str) -> str:
    means = protection_by_axis(frame, axis)
    if not len(means):
        return ""
    marked = track_marker(frame)
    rows = [
        {
            "attack": marked(str(attack)),
            **{str(label): format_protection(value) for label, value in values.items()},
        }
        for attack, values in means.iterrows()
    ]
    return f"## Protection by {axis}\n\n{markdown_table(rows)}"


def _regimes(frame: DataFrame) -> str:
    if "regime" not in varying_axes(frame):
        return ""
    found = scores_by_regime(frame)
    marked = track_marker(frame)
    regimes = dict.fromkeys(sorted(found["regime"]), NO_VALUE)
    rows = []
    for (dataset, metric, attack), values in found.groupby(["dataset", "metric", "attack"], sort=False):
        known = {
            row["regime"]: _cell(row["raw"], str(metric), row["protection"])
            for row in values.to_dict("records")
        }
        named = {"dataset": str(dataset), "metric": metric_label(str(metric)), "attack": marked(str(attack))}
        rows.append(named | regimes | known)
    legend = (
        "Mean over tasks of the raw score after the last epoch, protection in parentheses; without a defense "
        "where that was run. *mtl* is one network for all tasks, *stl* one for each on the same images."
    )
    return "\n\n".join(["## Raw score by regime", markdown_table(rows), legend])


def _peaks(frame: DataFrame) -> str:
    marked = track_marker(frame)
    rows = [
        {
            "dataset": row["dataset"],
            "attack": marked(row["attack"]),
            "metric": metric_label(row["metric"]),
            "last": format_score(row["last"], row["metric"]),
            "best": format_score(row["peak"], row["metric"]),
        }
        for row in peak_and_last_scores(frame).to_dict("records")
    ]
    if not rows:
        return ""
    legend = (
        "Mean over tasks of the raw score after the last epoch and at each task's best epoch, picked on the "
        "test set: what early stopping could give an exploiter at most. Victims as in the tables above."
    )
    return "\n\n".join(["## Last and best epoch", markdown_table(rows), legend])


def _costs(frame: DataFrame) -> str:
    rows = [
        {
            "phase": row["phase"],
            "dataset": row["dataset"],
            "by": row["axis"],
            "part": row["part"],
            "s": format_number(row["s"]),
            "img/s": format_number(row["images_per_s"]),
            "host MiB": format_integer(row["host_mb"]),
            "device MiB": format_integer(row["device_mb"]),
            "measured": str(row["measured"]),
        }
        for row in cost_table(frame).to_dict("records")
    ]
    if not rows:
        return ""
    legend = (
        "Means over what was measured: each poison once, all else per cell. Memory is the peak of the phase."
    )
    return "\n\n".join(["## Costs", markdown_table(drop_empty_columns(rows)), legend])


def _failed(failed: Sequence[Record]) -> str:
    if not failed:
        return ""
    rows = [
        {
            "cell": record.label,
            "error": f"{record.error['type']}: {record.error['message']}".splitlines()[0]
            if record.error
            else NO_VALUE,
        }
        for record in failed
    ]
    return f"## Failed cells\n\n{markdown_table(rows)}"


def _notes(frame: DataFrame, chosen: SelectedRecords, left_out: Sequence[str]) -> str:
    once = cell_rows(frame)
    undefined, unpaired = int(once["undefined"].sum()), int(once["unpaired"].sum())
    notes = []
    if undefined:
        notes.append(
            f"{format_count(undefined, 'score')} of tasks left out of all means of protection: the clean "
            f"victim is less than {MIN_HEADROOM:.0%} of the way from the floor to a perfect score, or a "
            "score is missing."
        )
    if unpaired:
        notes.append(f"{format_count(unpaired, 'cell')} without a clean counterpart, so without protection.")
    if chosen.superseded:
        notes.append(
            f"{format_count(chosen.superseded, 'older record')} left out: the same cell was finished later "
            "with other settings."
        )
    if chosen.failed:
        notes.append(f"{format_count(len(chosen.failed), 'cell')} failed.")
    if _uneven(full_protection_rows(once)):
        notes.append("The attacks were not all run on the same cells; `bench compare` pairs them.")
    notes += [escape_markdown(sentence) for sentence in left_out]
    return "## Notes\n\n" + "\n".join(f"- {note}" for note in notes) if notes else ""


def _uneven(once: DataFrame) -> bool:
    """Whether some attack (clean apart) misses a cell that another one has."""
    others = [axis for axis in AXES if axis != "attack"]
    attacks = once[once["attack"] != CLEAN].groupby("attack")
    return len({frozenset(rows[others].itertuples(index=False, name=None)) for _, rows in attacks}) > 1
