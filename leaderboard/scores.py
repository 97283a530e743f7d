"""Skill, shares of skill and protection. The only place that computes them; ``docs/scores.md`` explains them.

Pandas is not imported: what works on a record must run while a suite is running.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from bench.record import CLEAN, NO_DEFENSE, Record, Scores, TaskInfo, relative_score

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Track = Literal["linf", "l2", "unbounded"]
"""The norm of an attack's budget, or ``unbounded`` without one."""

TRACKS: tuple[Track, ...] = ("linf", "l2", "unbounded")
"""Every track, in the order of the rankings. Attacks of different tracks are never ranked together."""

MIN_HEADROOM = 0.05
"""Smallest skill that is clearly above the floor, of one seed; several seeds have an interval instead."""

CONFIDENCE = 0.95
"""One-sided confidence with which several seeds must be above the floor."""

SETTING_AXES = ("dataset", "backbone", "weighting", "regime")
"""A setting is a victim without its seed and its defense: the exploiter chooses the defense."""

TRANSFER_AXES = ("dataset", "weighting", "regime")
"""A setting in which the exploiter chooses the backbone too."""

_CHOICE_AXES = (*SETTING_AXES, "defense")

SCORE_COLUMNS = ("skill", "share", "paired", "defined", "protection", "is_reference")
"""Columns that `add_protection` adds."""


def track_of(record: Record) -> Track:
    """Return the track of a record's attack."""
    if record.settings.get("epsilon", ...) is None:
        return "unbounded"
    norm: Track = record.settings.get("norm") or "linf"
    return norm


def is_partial(record: Record) -> bool:
    """Return whether an attack protects only some of the images or tasks."""
    protected = record.settings.get("protected") or record.tasks
    return record.settings.get("rate", 1.0) < 1 or bool(set(record.tasks) - set(protected))


def mean_relative_score(scores: Scores, tasks: Mapping[str, TaskInfo]) -> float | None:
    """Return the mean relative score over the tasks that have one, None if none has."""
    relative = [
        relative_score(info, scores.get(task, {}).get(info["scored"])) for task, info in tasks.items()
    ]
    known = [score for score in relative if score is not None]
    return fmean(known) if known else None


def relative_scores(frame: "DataFrame") -> "Series[float]":
    """Return where the scores lie between ``floor`` (0) and ``perfect`` (1), NaN if the two are equal."""
    ranges = (frame["perfect"] - frame["floor"]).where(lambda width: width != 0)
    return (frame["score"] - frame["floor"]) / ranges


def is_clearly_positive(values: Sequence[float]) -> bool:
    """Return whether the mean of values, one per seed, is clearly above 0.

    It is if the lower end of its one-sided t interval is, at `CONFIDENCE`. One value has no interval: it must
    be at least `MIN_HEADROOM`. No value is not.
    """
    if len(values) < 2:
        return len(values) == 1 and values[0] >= MIN_HEADROOM
    from scipy.special import stdtrit  # takes a tenth of a second, which `bench --help` does not wait for

    error = stdev(values) / len(values) ** 0.5
    return float(fmean(values) - stdtrit(len(values) - 1, CONFIDENCE) * error) > 0


def add_protection(frame: "DataFrame", setting: Sequence[str] = SETTING_AXES) -> "DataFrame":
    """Return a table with the columns `SCORE_COLUMNS` added.

    ``skill`` is the relative score. ``share`` is u = skill / mean skill of the undefended clean victims of
    the setting, over their seeds; ``is_reference`` marks their rows. With U(a, d) as the mean of u over
    tasks, then over seeds, ``protection`` is 1 - u / U(clean), where U(clean) is the largest U(clean, d) of
    the defenses d that the attack was run with and of none. So the smallest mean over seeds of the
    protections of an attack's defenses is 1 - U(a) / U(clean), with U(a) as the largest U(a, d).

    Args:
        frame: one row per cell and task, as `leaderboard.frame.to_frame` describes them.
        setting: the axes that the exploiter cannot choose. If the backbone is not one of them, shares are of
            the undefended clean victim with the backbone that learns most, and the exploiter's choices are
            pairs of a backbone and a defense.
    """
    setting = list(setting)
    rows = frame.drop(columns=list(SCORE_COLUMNS), errors="ignore").assign(skill=relative_scores(frame))
    rows = rows.assign(is_reference=_is_reference(rows, setting))
    undefended = rows[rows["is_reference"]]
    rows = rows.join(_reference_skills(undefended, setting), on=[*setting, "task"])
    rows = rows.join(undefended.groupby(setting).size().rename("references"), on=setting)
    paired = rows["victim"].isin(rows.loc[rows["attack"] == CLEAN, "victim"]) & rows["references"].notna()
    share = (rows["skill"] / rows["reference"]).where(paired)
    rows = rows.drop(columns=["reference", "references"]).assign(share=share, paired=paired)
    best = _best_clean_shares(rows, setting)
    protection = 1 - share / rows[["attack", *setting]].join(best, on=["attack", *setting])["best"]
    return rows.assign(defined=protection.notna(), protection=protection)


def _is_reference(rows: "DataFrame", setting: Sequence[str]) -> "Series[bool]":
    """Return which rows are of clean victims without a defense, of the best backbone in each setting."""
    undefended = (rows["attack"] == CLEAN) & (rows["defense"] == NO_DEFENSE)
    means = rows[undefended].groupby(list(SETTING_AXES))["skill"].mean().rename("best").reset_index()
    best = means.sort_values("best", ascending=False, kind="stable").drop_duplicates(list(setting))
    is_best = rows[list(SETTING_AXES)].join(best.set_index(list(SETTING_AXES)), on=list(SETTING_AXES))["best"]
    return undefended & is_best.notna()


def _reference_skills(undefended: "DataFrame", setting: Sequence[str]) -> "Series[float]":
    """Return, by setting and task, the mean skill over seeds, for the tasks where it is clearly above 0."""
    by_task = undefended.groupby([*setting, "task"])["skill"]
    learned = by_task.agg(lambda skills: is_clearly_positive(list(skills.dropna()))).astype(bool)
    return by_task.mean()[learned].rename("reference")


def _best_clean_shares(rows: "DataFrame", setting: Sequence[str]) -> "Series[float]":
    """Return, by attack and setting, the most that the exploiter could have of clean data: U(clean)."""
    choice = list(_CHOICE_AXES)
    clean = rows[rows["attack"] == CLEAN]
    shares = clean.groupby([*choice, "key"])["share"].mean().groupby(level=choice).mean().rename("best")
    met = rows.loc[rows["paired"], ["attack", *choice]].drop_duplicates()
    # The exploiter can always train without a defense, even if the attack was not run without one.
    always = (
        met[["attack", *setting]]
        .drop_duplicates()
        .merge(rows.loc[rows["is_reference"], choice].drop_duplicates())
    )
    options = met.merge(always, how="outer").join(shares, on=choice)
    return options.groupby(["attack", *setting])["best"].max()
