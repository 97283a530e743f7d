"""Tables of raw scores and protection by axis, task and regime."""

from typing import TYPE_CHECKING

import pandas as pd
from pandas import DataFrame, Series

from bench.errors import unknown_name_error
from bench.record import AXES, CLEAN
from leaderboard.formatting import metric_order
from leaderboard.frame import cell_rows, full_protection_rows
from leaderboard.sections.costs import rows_where_axis_varies

if TYPE_CHECKING:
    pass
from leaderboard.sections.ranking import NO_DEFENSE, attack_order

FLOOR = "floor"
"""Label of the row that knows nothing of the image."""


def protection_by_axis(frame: DataFrame, axis: str) -> DataFrame:
    """Return mean protection per attack (rows, best first) and value of an axis (columns).

    Only settings of the other axes under which the axis was varied are averaged (see
    `leaderboard.sections.costs.rows_where_axis_varies`).

    Raises:
        BenchError: for an axis that does not exist or that is the rows'.
    """
    if axis not in AXES or axis == "attack":
        raise unknown_name_error("axis", axis, set(AXES) - {"attack"})
    once = rows_where_axis_varies(cell_rows(full_protection_rows(frame)), axis)
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
        raise unknown_name_error("dataset", dataset, set(frame["dataset"]))
    rows = full_protection_rows(frame[frame["dataset"] == dataset])
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


def scores_by_task(frame: DataFrame, dataset: str) -> DataFrame:
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


def scores_by_regime(frame: DataFrame) -> DataFrame:
    """Return raw headline scores and protection under every regime, as the papers have them side by side.

    Victims have defense ``none`` where that was run; only settings under which the regime was varied are
    averaged (see `leaderboard.sections.costs.rows_where_axis_varies`).

    Returns:
        One row per dataset, headline metric, attack (``clean``, then as ranked) and regime: ``dataset``,
        ``metric``, ``attack``, ``regime``, ``raw`` and ``protection``, means over tasks, then over cells.
    """
    rows = full_protection_rows(frame).rename(columns={"headline": "metric"})
    plain = rows[rows["defense"] == NO_DEFENSE]
    rows = rows_where_axis_varies(plain if len(plain) else rows, "regime")
    names = ["dataset", "metric", "attack", "regime"]
    cell = rows.groupby([*names, "key"])[["raw", "protection"]].mean()
    return _in_order(cell.groupby(level=names).mean().reset_index(), frame)


def peak_and_last_scores(frame: DataFrame) -> DataFrame:
    """Return the raw headline score after the last epoch and at its best epoch, for the usual victims.

    The best epoch is picked on the test set, per task: it bounds what early stopping could give an exploiter.

    Returns:
        Columns ``dataset``, ``metric``, ``attack``, ``last``, ``peak``.
    """
    datasets = sorted(set(full_protection_rows(frame)["dataset"]))
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
        .assign(metric_place=table["metric"].map(metric_order))
        .sort_values(["dataset", "metric_place", "place"], kind="stable", ignore_index=True)
        .drop(columns=["metric_place", "place"])
    )


def varying_axes(frame: DataFrame) -> list[str]:
    """Return the axes, attack and seed apart, that take more than one value."""
    rows = full_protection_rows(frame)
    return [axis for axis in AXES if axis not in ("attack", "seed") and rows[axis].nunique() > 1]
