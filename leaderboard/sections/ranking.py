"""Rank the attacks."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
from pandas import DataFrame, Series

from bench.record import AXES, CLEAN
from leaderboard.formatting import DAGGER
from leaderboard.frame import cell_rows, full_protection_rows

if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from pandas.api.typing import SeriesGroupBy


NO_DEFENSE = "none"
"""Label of the defense that does nothing; raw scores are shown under it, as the papers do."""

_SETTING = ["dataset", "backbone", "weighting", "regime", "seed"]

_ORDERING = (*AXES, "key", "bounded", "partial", "paired", "defined", "protection")
"""Columns of a frame that say in which order the attacks are listed."""


def rank_attacks(frame: DataFrame, bounded: bool = True) -> DataFrame:
    """Rank the attacks of one track by their worst case: the defender picks the defense.

    For every dataset, backbone, weighting, regime and seed the least protection over the defenses that were
    run there is taken, then the mean over all of these. A setting with one defense counts with that one.
    Attacks on some of the images or tasks only are in no ranking.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        bounded: rank the attacks that keep to the budget, else those that have none.

    Returns:
        One row per attack, best first, ``clean`` last:
        ``rank`` (missing for clean and where nothing is defined), ``attack``, ``worst``, ``worst_defense``
        (most often the worst), ``defenses_min`` and ``defenses_max`` (how many a worst case is over),
        ``mean`` (over defenses), ``spread`` (of ``worst``, standard deviation over seeds),
        ``cells``, ``undefined`` (tasks of cells), ``unpaired`` (cells), a ``raw_METRIC`` per headline metric
        (under defense ``none`` where it was run), ``craft_s``, ``craft_images_per_s``, ``craft_host_mb``,
        ``craft_device_mb`` (means over distinct poisons) and ``linf`` (largest, in steps of 1/255).
    """
    frame = full_protection_rows(frame)
    frame = frame[(frame["bounded"] == bounded) | (frame["attack"] == CLEAN)]
    if not len(frame):
        return DataFrame(columns=["rank", "attack", "worst"])
    once = cell_rows(frame)
    parts = [_means(once), _protections(once), _counts(once), _raw_means(frame), _crafting(once)]
    table = _sort(pd.concat(parts, axis=1))
    # Of an attack without any defined protection, no defense was taken the least over.
    table = table.fillna({"defenses_min": 0, "defenses_max": 0})
    table = table.astype({"defenses_min": int, "defenses_max": int})
    ranked = (table["attack"] != CLEAN) & table["worst"].notna()
    table.insert(0, "rank", ranked.cumsum().where(ranked).astype("Int64"))
    return table


def _sort(by_attack: DataFrame) -> DataFrame:
    """Return what is known of the attacks with a column ``attack``, best first, ``clean`` last."""
    order = ["clean", "worst", "mean", "attack"]
    table = by_attack.rename_axis("attack").reset_index()
    table["clean"] = table["attack"] == CLEAN
    table = table.sort_values(order, ascending=[True, False, False, True], ignore_index=True)
    return table.drop(columns="clean")


def _by_setting(once: DataFrame) -> "SeriesGroupBy[Any, tuple[Hashable, ...]]":
    """Return the defined protections, one group for all that differ in the defense alone."""
    return once[once["protection"].notna()].groupby(["attack", *_SETTING])["protection"]


def _means(once: DataFrame) -> DataFrame:
    """Return, by attack, by what the attacks are ranked; NaN where nothing is defined."""
    draws = _by_setting(once)
    found = DataFrame({"worst": draws.min(), "mean": draws.mean()}).groupby(level="attack").mean()
    return found.reindex(sorted(set(once["attack"])))


def _protections(once: DataFrame) -> DataFrame:
    """Return, by attack, what else `rank_attacks` says of its protection, where there is something to say."""
    draws = _by_setting(once)
    worst, counts = draws.min(), draws.size().groupby(level="attack")
    least = once.loc[draws.idxmin(), ["attack", "defense"]].value_counts(sort=False).sort_index()
    # Sorted by name, then by how often: of equals the first in the alphabet.
    often = least.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("attack")
    # Settings that were not run under every seed would show as a spread over seeds.
    spread = {
        attack: values.unstack("seed").dropna().mean().std(ddof=1)
        for attack, values in worst.groupby(level="attack")
    }
    return DataFrame(
        {
            "worst_defense": often.set_index("attack")["defense"],
            "defenses_min": counts.min(),
            "defenses_max": counts.max(),
            "spread": Series(spread, dtype=float),
        }
    )


def _counts(once: DataFrame) -> DataFrame:
    attacks = once.groupby("attack")
    return DataFrame(
        {
            "cells": attacks.size(),
            "undefined": attacks["undefined"].sum(),
            "unpaired": attacks["unpaired"].sum(),
            "linf": attacks["linf"].max(),
        }
    )


def _crafting(once: DataFrame) -> DataFrame:
    poisons = once.drop_duplicates(["attack", "poison"]).groupby("attack")
    return poisons[[f"craft_{suffix}" for suffix in ("s", "images_per_s", "host_mb", "device_mb")]].mean()


def _raw_means(tasks: DataFrame) -> DataFrame:
    tasks = tasks[["attack", "defense", "headline", "key", "raw"]]
    plain = tasks["defense"] == NO_DEFENSE
    shown = tasks[plain | ~plain.groupby(tasks["attack"]).transform("any")]
    # A cell first, so that a dataset with many tasks does not outweigh one with few.
    per_cell = shown.groupby(["attack", "headline", "key"])["raw"].mean()
    return per_cell.groupby(level=["attack", "headline"]).mean().unstack().add_prefix("raw_")


def attack_order(frame: DataFrame) -> list[str]:
    """Return the attacks as the rankings list them: ``clean``, those with a budget, those without."""
    once = cell_rows(full_protection_rows(frame[list(_ORDERING)]))
    order = [CLEAN] if (once["attack"] == CLEAN).any() else []
    for bounded in (True, False):
        some = once[(once["bounded"] == bounded) & (once["attack"] != CLEAN)]
        order.extend(_sort(_means(some))["attack"])
    return list(dict.fromkeys(order))


def track_marker(frame: DataFrame) -> Callable[[str], str]:
    """Return what marks the attacks of the unbounded track."""
    free = set(frame.loc[~frame["bounded"], "attack"])
    return lambda attack: f"{attack} {DAGGER}" if attack in free else attack
