"""The rows of the tidy table that can be compared with each other."""

from pandas import DataFrame, Series

from bench.errors import unknown_name_error
from bench.record import AXES, NO_DEFENSE
from leaderboard.frame import METRIC, TASK_COLUMNS
from leaderboard.scores import SCORE_COLUMNS


def full_protection_rows(frame: DataFrame) -> DataFrame:
    """Return the rows of attacks on all images and all tasks."""
    return frame[~frame["partial"]]


def dataset_names(frame: DataFrame) -> list[str]:
    """Return the datasets of the rows with full protection, sorted."""
    return sorted(frame.loc[~frame["partial"], "dataset"].unique())


def cell_rows(frame: DataFrame) -> DataFrame:
    """Return one row per cell: its columns, means of ``share`` and ``protection`` over tasks, and two counts.

    ``undefined`` is the number of tasks that have a clean counterpart but no defined protection;
    ``unpaired`` is whether the cell has no clean counterpart.
    """
    task_columns = {*TASK_COLUMNS, *SCORE_COLUMNS, "clean_score", "clean_raw"}
    names = [name for name in frame.columns if name not in task_columns and not name.startswith(METRIC)]
    cell = frame.loc[~frame["key"].duplicated(), names].set_index("key", drop=False)
    tasks = frame[["key", "paired", "share", "protection"]].assign(
        undefined=frame["paired"] & ~frame["defined"]
    )
    by_cell = tasks.groupby("key", sort=False)
    return cell.assign(
        share=by_cell["share"].mean(),
        protection=by_cell["protection"].mean(),
        undefined=by_cell["undefined"].sum(),
        unpaired=~by_cell["paired"].any(),
    ).reset_index(drop=True)


def varying_axes(frame: DataFrame) -> list[str]:
    """Return the axes, except attack and seed, that have more than one value."""
    rows = full_protection_rows(frame)
    return [axis for axis in AXES if axis not in ("attack", "seed") and rows[axis].nunique() > 1]


def rows_where_axis_varies(frame: DataFrame, axis: str) -> DataFrame:
    """Return the rows from which the values of an axis can be compared.

    If a matrix varies one axis at a time around a default cell, the default value of one axis is combined
    with every variant of the others, and the other values with the defaults only. So only those settings of
    the other axes (except attack and seed) are kept under which the axis has more than one value. If there is
    no such setting, all rows are returned.
    """
    others = [other for other in AXES if other not in (axis, "attack", "seed")]
    kept = frame[frame.groupby(others)[axis].transform("nunique") > 1]
    return kept if len(kept) else frame


def default_victim_rows(frame: DataFrame, dataset: str) -> DataFrame:
    """Return a dataset's rows with full protection, defense ``none`` and default backbone, weighting, regime.

    The default value of an axis is the one that is combined with the most settings of the other axes. In a
    full matrix that is every value.

    Raises:
        BenchError: for a dataset without rows.
    """
    if dataset not in (names := set(frame["dataset"].unique())):
        raise unknown_name_error("dataset", dataset, names)
    rows = full_protection_rows(frame[frame["dataset"] == dataset])
    settings = rows[["backbone", "weighting", "defense", "regime"]].drop_duplicates()
    kept = rows
    for axis in settings.columns:
        if axis == "defense" and (settings[axis] == NO_DEFENSE).any():
            defaults = {NO_DEFENSE}
        else:
            defaults = most_frequent(settings[axis])
        kept = kept[kept[axis].isin(defaults)]
    # The defaults of all axes may never occur in one cell. Then all rows are shown.
    return kept if len(kept) else rows


def most_frequent(values: "Series[str]") -> set[str]:
    """Return the most frequent value, or all of them if several are equally frequent."""
    counts = values.value_counts()
    return set(counts.index[counts == counts.max()])
