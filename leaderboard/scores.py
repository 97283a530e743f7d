"""Relative scores and protection, of single records and of whole tables. The only place that computes them.

Pandas is not imported: what works on a record must run while a suite is running.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from bench.record import AXES, CLEAN, Record, Scores, TaskInfo, relative_score

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Number = TypeVar("Number", float, "Series[float]")

MIN_HEADROOM = 0.05
"""Smallest relative score of a clean victim for which protection is defined.

Protection divides by what the clean victim learned. At 0.05 an error of one hundredth of the range already
moves protection by 0.2; below it the quotient shows the seed and not the attack.
"""


SETTING_AXES = tuple(axis for axis in AXES if axis not in ("attack", "defense"))
"""Axes that are equal for the cells over which a worst case is taken; worst cases are then averaged."""


def is_bounded(record: Record) -> bool:
    """Return whether an attack keeps to a budget."""
    return record.settings.get("epsilon", ...) is not None


def is_partial(record: Record) -> bool:
    """Return whether an attack protects only some of the images or tasks."""
    protected = record.settings.get("protected") or record.tasks
    return record.settings.get("rate", 1.0) < 1 or bool(set(record.tasks) - set(protected))


def protection(clean: Number, score: Number, floor: Number) -> Number:
    """Return (clean - score) / (clean - floor), of numbers or of columns."""
    return (clean - score) / (clean - floor)


def protection_by_task(record: Record, clean: Scores) -> dict[str, float]:
    """Return task → protection of a finished cell, for the tasks where it is defined.

    Args:
        record: the cell.
        clean: the scores of its clean counterpart, which has the same victim.
    """
    found = {}
    for task, info in record.tasks.items():
        metric = info["scored"]
        score, clean_score = record.scores[task][metric], clean.get(task, {}).get(metric)
        learned = relative_score(info, clean_score)
        if score is not None and clean_score is not None and learned is not None and learned >= MIN_HEADROOM:
            found[task] = protection(clean_score, score, info["floor"][metric])
    return found


def mean_relative_score(scores: Scores, tasks: Mapping[str, TaskInfo]) -> float | None:
    """Return the mean relative score over the tasks that have one, None if none has."""
    relative = [
        relative_score(info, scores.get(task, {}).get(info["scored"])) for task, info in tasks.items()
    ]
    known = [score for score in relative if score is not None]
    return fmean(known) if known else None


def relative_scores(frame: "DataFrame", column: str = "score", *, one_range: bool = False) -> "Series[float]":
    """Return where a column's scores lie between ``floor`` (0) and ``perfect`` (1), NaN if the two are equal.

    Args:
        frame: with the columns ``floor`` and ``perfect``.
        column: the scores.
        one_range: divide all rows by the mean range from floor to perfect. Rows of one metric then are in
            the same order, and differ in the same proportions, as the scores themselves.
    """
    ranges = (frame["perfect"] - frame["floor"]).where(lambda width: width != 0)
    return (frame[column] - frame["floor"]) / (ranges.mean() if one_range else ranges)


def add_protection(frame: "DataFrame") -> "DataFrame":
    """Return a table with ``clean_score``, ``clean_raw``, ``paired``, ``defined`` and ``protection`` added.

    Args:
        frame: one row per cell and task, as `leaderboard.frame.to_frame` describes them.
    """
    clean = (
        frame.loc[frame["attack"] == CLEAN, ["victim", "task", "score", "raw"]]
        .drop_duplicates(["victim", "task"])
        .rename(columns={"score": "clean_score", "raw": "clean_raw"})
    )
    frame = frame.merge(clean, on=["victim", "task"], how="left")
    is_reference = frame["attack"] == CLEAN
    learned = relative_scores(frame, "clean_score")
    defined = is_reference | ((learned >= MIN_HEADROOM) & frame["score"].notna())
    values = protection(frame["clean_score"], frame["score"], frame["floor"])
    return frame.assign(
        paired=frame["victim"].isin(clean["victim"]),
        defined=defined,
        protection=values.where(defined).mask(is_reference, 0.0),
    )
