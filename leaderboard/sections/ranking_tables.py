"""The tables of the ranking, one per track."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, isna

from bench.record import CLEAN
from leaderboard.formatting import (
    NO_VALUE,
    format_number,
    format_protection,
    format_score,
    format_with_spec,
    join_blocks,
    markdown_table,
    metric_label,
    metric_order,
)
from leaderboard.ranking import (
    DAGGER,
    RAW,
    rank_attacks,
)


def render_ranking(frame: DataFrame) -> str:
    """Return the ranking of the attacks with a budget in markdown, empty if there is nothing to rank."""
    ranked = rank_attacks(frame)
    if not len(ranked):
        return ""
    spread = "; ± is the standard deviation over seeds" if ranked["spread"].notna().any() else ""
    legend = (
        "The exploiter picks the defense: *worst case* is the lowest protection over the defenses, averaged "
        f"over everything else; *mean* is the mean over the defenses, too{spread}. *Defenses* is the number "
        "of defenses in a worst case. *Undefined* is the number of task scores without a defined protection, "
        "which are left out. Raw scores are without a defense if that was run. A better protected task has a "
        "lower score, but a higher error or angle. Memory is the peak while crafting, l∞ the largest change "
        f"of a pixel. {CLEAN} is the reference and is not ranked."
    )
    return join_blocks("## Ranking", _ranking_table(ranked), legend)


def render_unbounded_ranking(frame: DataFrame) -> str:
    """Return the ranking of the attacks without a budget in markdown, empty if there are none."""
    ranked = rank_attacks(frame, bounded=False)
    if not (ranked["attack"] != CLEAN).any():
        return ""
    legend = (
        "Attacks without a budget: their changes may be visible, so they are ranked separately. The columns "
        f"are as above. {DAGGER} marks these attacks in the tables that show both tracks."
    )
    return join_blocks("## Ranking, unbounded track", _ranking_table(ranked), legend)


def _ranking_table(ranked: DataFrame) -> str:
    names = [str(column) for column in ranked if str(column).startswith(RAW)]
    metrics = sorted((name.removeprefix(RAW) for name in names), key=metric_order)
    return markdown_table([_ranking_row(row, metrics) for row in ranked.to_dict("records")], drop_empty=True)


def _ranking_row(row: Mapping[Hashable, Any], metrics: Sequence[str]) -> dict[str, str]:
    low, high = row["defenses_min"], row["defenses_max"]
    cells = {
        "#": NO_VALUE if isna(row["rank"]) else str(row["rank"]),
        "attack": row["attack"],
        "worst case": format_protection(row["worst"], row["spread"]),
        "worst defense": NO_VALUE if isna(row["worst_defense"]) else row["worst_defense"],
        "defenses": str(low) if low == high else f"{low}–{high}",
        "mean": format_protection(row["mean"]),
        **{metric_label(metric): format_score(row[f"{RAW}{metric}"], metric) for metric in metrics},
        "cells": str(row["cells"]),
        "undefined": str(row["undefined"]),
        "craft s": format_number(row["craft_s"]),
        "craft img/s": format_number(row["craft_images_per_s"]),
        "host MiB": format_with_spec(row["craft_host_mb"], ".0f"),
        "device MiB": format_with_spec(row["craft_device_mb"], ".0f"),
        "l∞ /255": format_with_spec(row["linf"], ".3g"),
    }
    if row["attack"] == CLEAN:
        # It has no worst defense, and the cost of copying images is not a cost of crafting.
        cells["worst case"] = format_protection(row["worst"])
        cells |= dict.fromkeys(
            ("worst defense", "craft s", "craft img/s", "host MiB", "device MiB"), NO_VALUE
        )
    return cells
