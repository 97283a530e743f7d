"""The tables of the leaderboard, as data frames; `leaderboard.markdown` writes them out."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
from pandas import DataFrame, Series

from bench.errors import unknown
from bench.record import AXES, CLEAN
from leaderboard.costs import varied
from leaderboard.frame import cells, whole
from leaderboard.writing import DAGGER, metric_place

if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from pandas.api.typing import SeriesGroupBy

NO_DEFENSE = "none"
"""Label of the defense that does nothing; raw scores are shown under it, as the papers do."""

FLOOR = "floor"
"""Label of the row that knows nothing of the image."""

_DRAW = ["dataset", "backbone", "weighting", "regime", "seed"]

_ORDERING = (*AXES, "key", "bounded", "partial", "paired", "defined", "protection")
"""Columns of a frame that say in which order the attacks are listed."""


def ranking(frame: DataFrame, bounded: bool = True) -> DataFrame:
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
    frame = whole(frame)
    frame = frame[(frame["bounded"] == bounded) | (frame["attack"] == CLEAN)]
    if not len(frame):
        return DataFrame(columns=["rank", "attack", "worst"])
    once = cells(frame)
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


def _draws(once: DataFrame) -> "SeriesGroupBy[Any, tuple[Hashable, ...]]":
    """Return the defined protections, one group for all that differ in the defense alone."""
    return once[once["protection"].notna()].groupby(["attack", *_DRAW])["protection"]


def _means(once: DataFrame) -> DataFrame:
    """Return, by attack, by what the attacks are ranked; NaN where nothing is defined."""
    draws = _draws(once)
    found = DataFrame({"worst": draws.min(), "mean": draws.mean()}).groupby(level="attack").mean()
    return found.reindex(sorted(set(once["attack"])))


def _protections(once: DataFrame) -> DataFrame:
    """Return, by attack, what else `ranking` says of its protection, where there is something to say."""
    draws = _draws(once)
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
    once = cells(whole(frame[list(_ORDERING)]))
    order = [CLEAN] if (once["attack"] == CLEAN).any() else []
    for bounded in (True, False):
        some = once[(once["bounded"] == bounded) & (once["attack"] != CLEAN)]
        order.extend(_sort(_means(some))["attack"])
    return list(dict.fromkeys(order))


def marks(frame: DataFrame) -> Callable[[str], str]:
    """Return what marks the attacks of the unbounded track."""
    free = set(frame.loc[~frame["bounded"], "attack"])
    return lambda attack: f"{attack} {DAGGER}" if attack in free else attack


def by_axis(frame: DataFrame, axis: str) -> DataFrame:
    """Return mean protection per attack (rows, best first) and value of an axis (columns).

    Only settings of the other axes under which the axis was varied are averaged (see
    `leaderboard.costs.varied`).

    Raises:
        BenchError: for an axis that does not exist or that is the rows'.
    """
    if axis not in AXES or axis == "attack":
        raise unknown("axis", axis, set(AXES) - {"attack"})
    once = varied(cells(whole(frame)), axis)
    table = once.pivot_table(index="attack", columns=axis, values="protection", aggfunc="mean", dropna=False)
    return table.reindex([attack for attack in attack_order(frame) if attack != CLEAN])


def usual_victims(frame: DataFrame, dataset: str) -> DataFrame:
    """Return a dataset's whole attacks under defense ``none`` and the usual backbone, weighting and regime.

    The usual value of an axis is the one that occurs with the most settings of the others: the default
    where one axis is varied at a time, and every value of a full matrix.

    Raises:
        BenchError: for a dataset that does not occur.
    """
    if dataset not in set(frame["dataset"]):
        raise unknown("dataset", dataset, set(frame["dataset"]))
    rows = whole(frame[frame["dataset"] == dataset])
    settings = rows[["backbone", "weighting", "defense", "regime"]].drop_duplicates()
    kept = rows
    for axis in settings.columns:
        if axis == "defense" and (settings[axis] == NO_DEFENSE).any():
            usual = {NO_DEFENSE}
        else:
            counts = settings[axis].value_counts()
            usual = set(counts[counts == counts.max()].index)
        kept = kept[kept[axis].isin(usual)]
    # The default of each axis need not meet in one cell; then the whole dataset is shown.
    return kept if len(kept) else rows


def by_task(frame: DataFrame, dataset: str) -> DataFrame:
    """Return raw headline scores and protection per attack and task, for the usual victims of a dataset.

    Returns:
        Rows: ``floor``, ``clean``, then the attacks as ranked. Columns, two levels: (``raw``, task) and
        (``protection``, task) in the dataset's order, means over seeds (and victims, in a full matrix);
        (``mean``, ``raw``), NaN where the tasks have different metrics, and (``mean``, ``protection``).

    Raises:
        BenchError: for a dataset that does not occur.
    """
    rows = usual_victims(frame, dataset)
    tasks = list(rows.sort_values(["position", "task"])["task"].drop_duplicates())
    grouped = rows.groupby(["attack", "task"])
    raw, protection = grouped["raw"].mean().unstack(), grouped["protection"].mean().unstack()
    order = [attack for attack in attack_order(frame) if attack in raw.index]
    raw, protection = raw.reindex(order)[tasks], protection.reindex(order)[tasks]
    floor = rows.groupby("task")["floor_raw"].mean()[tasks]
    raw = pd.concat([floor.to_frame(FLOOR).T, raw])
    protection = protection.reindex(raw.index)
    one_metric = rows["headline"].nunique() == 1
    raw_mean = raw.mean(axis=1) if one_metric else Series(float("nan"), index=raw.index)
    mean = DataFrame({"raw": raw_mean, "protection": protection.mean(axis=1)})
    return pd.concat({"raw": raw, "protection": protection, "mean": mean}, axis=1)


def by_regime(frame: DataFrame) -> DataFrame:
    """Return raw headline scores and protection under every regime, as the papers have them side by side.

    Victims have defense ``none`` where that was run; only settings under which the regime was varied are
    averaged (see `leaderboard.costs.varied`).

    Returns:
        One row per dataset, headline metric, attack (``clean``, then as ranked) and regime: ``dataset``,
        ``metric``, ``attack``, ``regime``, ``raw`` and ``protection``, means over tasks, then over cells.
    """
    rows = whole(frame).rename(columns={"headline": "metric"})
    plain = rows[rows["defense"] == NO_DEFENSE]
    rows = varied(plain if len(plain) else rows, "regime")
    names = ["dataset", "metric", "attack", "regime"]
    cell = rows.groupby([*names, "key"])[["raw", "protection"]].mean()
    return _in_order(cell.groupby(level=names).mean().reset_index(), frame)


def peak_vs_last(frame: DataFrame) -> DataFrame:
    """Return the raw headline score after the last epoch and at its best epoch, for the usual victims.

    The best epoch is picked on the test set, per task: it bounds what early stopping could give an exploiter.

    Returns:
        Columns ``dataset``, ``metric``, ``attack``, ``last``, ``peak``.
    """
    datasets = sorted(set(whole(frame)["dataset"]))
    columns = {"headline": "metric", "raw": "last", "raw_peak": "peak"}
    if not datasets:
        return DataFrame(columns=["dataset", "metric", "attack", "last", "peak"])
    rows = pd.concat([usual_victims(frame, dataset) for dataset in datasets])
    means = rows.groupby(["dataset", "headline", "attack"])[["raw", "raw_peak"]].mean().reset_index()
    return _in_order(means.rename(columns=columns), frame)


def _in_order(table: DataFrame, frame: DataFrame) -> DataFrame:
    """Sort a table by dataset, metric and, as the rankings list them, attack."""
    return (
        table.assign(place=table["attack"].map(attack_order(frame).index))
        .assign(metric_place=table["metric"].map(metric_place))
        .sort_values(["dataset", "metric_place", "place"], kind="stable", ignore_index=True)
        .drop(columns=["metric_place", "place"])
    )


def varying_axes(frame: DataFrame) -> list[str]:
    """Return the axes, attack and seed apart, that take more than one value."""
    rows = whole(frame)
    return [axis for axis in AXES if axis not in ("attack", "seed") and rows[axis].nunique() > 1]
