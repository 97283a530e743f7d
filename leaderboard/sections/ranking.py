"""The ranking of the attacks, one per track."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, Series, concat, isna

from bench.record import CLEAN
from leaderboard.attack_order import DAGGER, group_by_setting, sort_attacks, worst_and_mean_protection
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
from leaderboard.rows import NO_DEFENSE, cell_rows, full_protection_rows

RAW = "raw_"
"""Prefix of the column of a headline metric."""


def rank_attacks(frame: DataFrame, bounded: bool = True) -> DataFrame:
    """Rank the attacks of one track by their worst case over the defenses.

    For every dataset, backbone, weighting, regime and seed the lowest protection over the defenses that were
    run is taken, and then the mean of these. A setting with a single defense counts with that one.
    Attacks on some of the images or tasks only are not ranked.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        bounded: rank the attacks that keep to the budget; otherwise those without a budget.

    Returns:
        One row per attack, best first, ``clean`` last:
        ``rank`` (missing for clean and for attacks without a defined protection), ``attack``, ``worst``,
        ``worst_defense`` (the defense that is worst most often), ``defenses_min`` and ``defenses_max`` (how
        many defenses a worst case is taken over), ``mean`` (over defenses), ``spread`` (of ``worst``,
        standard deviation over seeds), ``cells``, ``undefined`` (tasks of cells), ``unpaired`` (cells), a
        ``raw_METRIC`` per headline metric (under defense ``none`` if it was run), ``craft_s``,
        ``craft_images_per_s``, ``craft_host_mb``, ``craft_device_mb`` (means over distinct poisons) and
        ``linf`` (largest, in steps of 1/255).
    """
    frame = full_protection_rows(frame)
    frame = frame[(frame["bounded"] == bounded) | (frame["attack"] == CLEAN)]
    if not len(frame):
        return DataFrame(columns=["rank", "attack", "worst", "spread"])
    cells = cell_rows(frame)
    columns = [worst_and_mean_protection(cells), _worst_case_columns(cells), _count_columns(cells)]
    table = sort_attacks(concat([*columns, _raw_columns(frame), _craft_columns(cells)], axis=1))
    # An attack without a defined protection has no worst case, so none over any defense.
    counts = ["defenses_min", "defenses_max"]
    table[counts] = table[counts].fillna(0).astype(int)
    is_ranked = (table["attack"] != CLEAN) & table["worst"].notna()
    table.insert(0, "rank", is_ranked.cumsum().where(is_ranked).astype("Int64"))
    return table


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


def _worst_case_columns(cells: DataFrame) -> DataFrame:
    groups = group_by_setting(cells)
    worst, counts = groups.min(), groups.size().groupby(level="attack")
    defenses = cells.loc[groups.idxmin(), ["attack", "defense"]].value_counts(sort=False).sort_index()
    # Sorted by name, then by frequency: of equally frequent defenses the first in the alphabet.
    most_often = defenses.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("attack")
    # Settings that were not run with every seed would look like a spread over seeds.
    spread = {
        attack: values.unstack("seed").dropna().mean().std(ddof=1)
        for attack, values in worst.groupby(level="attack")
    }
    return DataFrame(
        {
            "worst_defense": most_often.set_index("attack")["defense"],
            "defenses_min": counts.min(),
            "defenses_max": counts.max(),
            "spread": Series(spread, dtype=float),
        }
    )


def _count_columns(cells: DataFrame) -> DataFrame:
    return cells.groupby("attack").agg(
        cells=("key", "size"),
        undefined=("undefined", "sum"),
        unpaired=("unpaired", "sum"),
        linf=("linf", "max"),
    )


def _craft_columns(cells: DataFrame) -> DataFrame:
    poisons = cells.drop_duplicates(["attack", "poison"]).groupby("attack")
    return poisons[["craft_s", "craft_images_per_s", "craft_host_mb", "craft_device_mb"]].mean()


def _raw_columns(frame: DataFrame) -> DataFrame:
    frame = frame[["attack", "defense", "headline", "key", "raw"]]
    undefended = frame["defense"] == NO_DEFENSE
    rows = frame[undefended | ~undefended.groupby(frame["attack"]).transform("any")]
    # The mean of a cell is taken first, so that a dataset with many tasks does not outweigh one with few.
    per_cell = rows.groupby(["attack", "headline", "key"])["raw"].mean()
    return per_cell.groupby(level=["attack", "headline"]).mean().unstack().add_prefix(RAW)


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
