"""The headline of an attack: the value of its game with an exploiter who picks the defense."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series

from bench.record import CLEAN
from leaderboard.scores import SETTING_AXES
from leaderboard.statistics import MIN_INTERVAL_SEEDS, Interval, Weights, seed_interval

Array = NDArray[np.float64]

_GAME_COLUMNS = ("attack", "backbone", "defense", "seed", "task", "skill", "is_reference")
"""Columns that an interval depends on, besides those of the setting."""


def protection_by_choice(cells: DataFrame, setting: Sequence[str] = SETTING_AXES) -> "Series[float]":
    """Return mean protection over seeds by attack, setting and what the exploiter chooses.

    Args:
        cells: from `leaderboard.rows.cell_rows`.
        setting: the axes of a setting, see `leaderboard.scores.add_protection`.

    Returns:
        Defined values, with the levels ``attack``, the setting's axes, ``backbone`` if not among them, and
        ``defense``.
    """
    levels = list(dict.fromkeys(["attack", *setting, "backbone", "defense"]))
    return cells[cells["protection"].notna()].groupby(levels)["protection"].mean()


def headline(choices: "Series[float]", setting: Sequence[str] = SETTING_AXES) -> "Series[float]":
    """Return, by attack, the smallest protection over the choices of a setting, a mean over settings."""
    return choices.groupby(level=["attack", *setting]).min().groupby(level="attack").mean()


def headline_interval(rows: DataFrame, attack: str, setting: Sequence[str] = SETTING_AXES) -> Interval | None:
    """Return the 95 % interval of an attack's headline over seeds.

    Every resample of the seeds averages the skills of the undefended clean victims anew and repeats the
    exploiter's choices, for the attack and for clean data.

    Args:
        rows: a tidy table with full protection, as `leaderboard.scores.add_protection` scores the setting.
        attack: its label.
        setting: the axes of a setting.

    Returns:
        None if there are too few seeds, if not all cells were run with the same ones, or if the rows lack the
        undefended clean victims of a setting.
    """
    setting = list(setting)
    is_needed = rows["defined"] & rows["attack"].isin([attack, CLEAN])
    rows = rows.loc[is_needed, [*dict.fromkeys([*setting, *_GAME_COLUMNS])]]
    if rows["seed"].nunique() < MIN_INTERVAL_SEEDS:
        return None
    rows = rows.merge(rows.loc[rows["attack"] == attack, setting].drop_duplicates())
    if not rows.groupby(setting)["is_reference"].any().all():
        return None
    seeds = sorted(set(rows["seed"]))
    games = [_skills_of_sides(game, seeds) for _, game in rows.groupby(setting)]
    missing = (np.isnan(skills).all(axis=1).any() for game in games for skills in game)
    if not games or any(missing) or any(np.isnan(undefended).any() for *_, undefended in games):
        return None

    def statistic(weights: Weights) -> Array:
        values: Array = np.mean([_protection_of_weights(*game, weights) for game in games], axis=0)
        return values

    return seed_interval(statistic, len(seeds))


def _skills_of_sides(rows: DataFrame, seeds: Sequence[int]) -> tuple[Array, Array, Array]:
    """Return the skills of one setting: attacked, clean under the same choices or none, and the reference."""
    is_clean, choice = rows["attack"] == CLEAN, rows.groupby(["backbone", "defense"]).ngroup()
    attacked, undefended = rows[~is_clean], rows[rows["is_reference"]]
    allowed = rows[is_clean & (choice.isin(choice[~is_clean]) | rows["is_reference"])]
    tasks = sorted(set(undefended["task"]))
    return (
        _skill_array(attacked, tasks, seeds),
        _skill_array(allowed, tasks, seeds),
        _skill_array(undefended, tasks, seeds),
    )


def _skill_array(rows: DataFrame, tasks: Sequence[str], seeds: Sequence[int]) -> Array:
    """Return skills [choices tasks seeds], NaN where there is none."""
    choice = rows.groupby(["backbone", "defense"]).ngroup().to_numpy()
    skills = np.full((choice.max(initial=0) + 1, len(tasks), len(seeds)), np.nan)
    positions = (np.searchsorted(axis, rows[name]) for axis, name in ((tasks, "task"), (seeds, "seed")))
    skills[(choice, *positions)] = rows["skill"]
    return skills


def _protection_of_weights(attacked: Array, clean: Array, undefended: Array, weights: Weights) -> Array:
    """Return 1 - U(attack) / U(clean) for weights [b seeds] of skills [choices tasks seeds]."""
    one_share = 1 / (undefended[0] @ weights.T)  # [tasks b]

    def most_left(skills: Array) -> Array:
        tasks = (~np.isnan(skills)).sum(axis=1)  # [choices seeds]
        shares = np.nan_to_num(skills).transpose(0, 2, 1) @ one_share / tasks[..., None]
        return np.asarray((shares * weights.T).sum(axis=1).max(axis=0))

    return 1 - most_left(attacked) / most_left(clean)
