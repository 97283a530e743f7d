"""The headline of an attack: the value of its game with an exploiter who picks the defense."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series

from bench.record import CLEAN
from leaderboard.scores import SETTING_AXES
from leaderboard.statistics import MIN_INTERVAL_SEEDS, Interval, Weights, seed_interval

Array = NDArray[np.float64]
Rows = NDArray[np.void]
"""Rows of a tidy table as one structured array."""


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


def headline_intervals(rows: DataFrame, setting: Sequence[str] = SETTING_AXES) -> dict[str, Interval | None]:
    """Return the 95 % interval of every attack's headline over seeds.

    Every resample of the seeds averages the skills of the undefended clean victims anew and repeats the
    exploiter's choices, for the attack and for clean data.

    Args:
        rows: a tidy table with full protection, as `leaderboard.scores.add_protection` scores the setting.
        setting: the axes of a setting.

    Returns:
        Attack → interval, sorted; None if there are too few seeds, if not all cells were run with the same
        ones, or if the rows lack the undefended clean victims of a setting.
    """
    attacks = sorted(set(rows["attack"].unique()) - {CLEAN})
    if rows["seed"].nunique() < MIN_INTERVAL_SEEDS:
        return dict.fromkeys(attacks)
    games = _split_games(rows[rows["defined"]], list(setting))
    return {
        attack: _interval_of_games([game for game in games if (game["attack"] == attack).any()], attack)
        for attack in attacks
    }


def _split_games(rows: DataFrame, setting: list[str]) -> list[Rows]:
    """Return the rows of every setting; choices of the exploiter, tasks and seeds are numbers."""
    coded = DataFrame(
        {
            "attack": rows["attack"].to_numpy(object),
            "choice": rows.groupby(["backbone", "defense"]).ngroup(),
            "task": rows.groupby("task").ngroup(),
            "seed": rows["seed"],
            "skill": rows["skill"],
            "is_reference": rows["is_reference"],
        }
    ).to_records(index=False)
    game = rows.groupby(setting).ngroup().to_numpy()
    order = np.argsort(game, kind="stable")
    return np.split(np.asarray(coded)[order], np.flatnonzero(np.diff(game[order])) + 1)


def _interval_of_games(games: Sequence[Rows], attack: str) -> Interval | None:
    """Return the interval of the headline over games, each with rows of the attack."""
    played = [game[np.isin(game["attack"], (attack, CLEAN))] for game in games]
    if not all(game["is_reference"].any() for game in played):
        return None
    seeds = np.unique(np.concatenate([game["seed"] for game in played])) if played else np.array([])
    skills = [_skills_of_sides(game, seeds) for game in played]
    missing = (np.isnan(side).all(axis=1).any() for sides in skills for side in sides)
    if not skills or any(missing) or any(np.isnan(undefended).any() for *_, undefended in skills):
        return None

    def statistic(weights: Weights) -> Array:
        values: Array = np.mean([_protection_of_weights(*sides, weights) for sides in skills], axis=0)
        return values

    return seed_interval(statistic, len(seeds))


def _skills_of_sides(rows: Rows, seeds: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return the skills of one game: attacked, clean under the same choices or none, and the reference."""
    is_clean, is_reference = rows["attack"] == CLEAN, rows["is_reference"]
    is_allowed = is_clean & (np.isin(rows["choice"], rows["choice"][~is_clean]) | is_reference)
    tasks = np.unique(rows["task"][is_reference])
    attacked, clean, undefended = (
        _skill_array(rows[kept], tasks, seeds) for kept in (~is_clean, is_allowed, is_reference)
    )
    return attacked, clean, undefended


def _skill_array(rows: Rows, tasks: NDArray[np.int64], seeds: NDArray[np.int64]) -> Array:
    """Return skills [choices tasks seeds], NaN where there is none."""
    choices, choice = np.unique(rows["choice"], return_inverse=True)
    skills = np.full((len(choices), len(tasks), len(seeds)), np.nan)
    places = (choice, np.searchsorted(tasks, rows["task"]), np.searchsorted(seeds, rows["seed"]))
    skills[places] = rows["skill"]
    return skills


def _protection_of_weights(attacked: Array, clean: Array, undefended: Array, weights: Weights) -> Array:
    """Return 1 - U(attack) / U(clean) for weights [b seeds] of skills [choices tasks seeds]."""
    one_share = 1 / (undefended[0] @ weights.T)  # [tasks b]

    def most_left(skills: Array) -> Array:
        tasks = (~np.isnan(skills)).sum(axis=1)  # [choices seeds]
        shares = np.nan_to_num(skills).transpose(0, 2, 1) @ one_share / tasks[..., None]
        return np.asarray((shares * weights.T).sum(axis=1).max(axis=0))

    return 1 - most_left(attacked) / most_left(clean)
