"""How often 95 % intervals over seeds hold the truth, by simulation.

``python -m tests.simulation.coverage`` prints the table of docs/statistics.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from leaderboard.formatting import markdown_table
from leaderboard.statistics import seed_interval

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]

SD = 0.05
"""Standard deviation over seeds of a share of skill."""

SHARED = 0.5
"""Share of the variance that all cells of a seed, attacked and clean, have in common."""


@dataclass(frozen=True)
class Truth:
    """The mean shares of skill per defense under an attack and on clean data, and the deviation of both."""

    attacked: Array
    clean: Array
    sd: Array

    @property
    def protection(self) -> float:
        """1 - U(attack) / U(clean), each with its best defense."""
        return float(1 - self.attacked.max() / self.clean.max())


def _below(best: float, distances: Array) -> Array:
    return best - SD * distances


def _same_sd(attacked: Array, clean: Array) -> Truth:
    return Truth(attacked, clean, np.full(len(clean), SD))


def _first(defenses: int, others: float) -> Array:
    return np.r_[0.0, np.full(defenses - 1, others)]


def _spread(defenses: int, width: float) -> Array:
    return np.linspace(0, width, defenses)


SITUATIONS: dict[str, Callable[[int], Truth]] = {
    "clear winner": lambda d: _same_sd(_below(0.5, _first(d, 8)), _below(1, _first(d, 8))),
    "two tied": lambda d: _same_sd(_below(0.5, 8.0 * (np.arange(d) > 1)), _below(1, _first(d, 8))),
    "far apart": lambda d: _same_sd(_below(0.5, _spread(d, 4)), _below(1, _spread(d, 4))),
    "close": lambda d: _same_sd(_below(0.5, _spread(d, 1)), _below(1, _spread(d, 1))),
    "all tied": lambda d: _same_sd(np.full(d, 0.5), np.full(d, 1.0)),
    "all tied under attack": lambda d: _same_sd(np.full(d, 0.5), _below(1, _first(d, 8))),
    "close, noise unequal": lambda d: Truth(
        0.5 - np.geomspace(0.01, 0.1, d) * _spread(d, 1),
        _below(1, _first(d, 8)),
        np.geomspace(0.01, 0.1, d),
    ),
}
"""Situation → the truth with this many defenses; distances are in standard deviations of a seed."""


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw noise of mean 0 and variance 1."""
    return rng.standard_normal(shape)


def skewed_up(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw noise of mean 0, variance 1 and skewness 1: some seeds lie far above the rest."""
    return (rng.gamma(4.0, size=shape) - 4) / 2


def skewed_down(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw noise of mean 0, variance 1 and skewness -1: some seeds lie far below the rest."""
    return -skewed_up(rng, shape)


def draw_shares(rng: np.random.Generator, means: Array, sd: Array, shared: Array, noise: Noise) -> Array:
    """Return shares of skill [trials seeds defenses]; ``shared`` [trials seeds 1] is part of all noise."""
    own = noise(rng, (*shared.shape[:2], len(means)))
    return means + sd * (SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * own)


def coverage(
    truth: Truth, seeds: int, trials: int, noise: Noise = normal, settings: int = 1, random_seed: int = 0
) -> float:
    """Return the share of 95 % intervals of protection that hold the truth.

    Args:
        truth: the means per defense.
        seeds: number of seeds of each trial.
        trials: number of intervals.
        noise: distribution over seeds.
        settings: protection is the mean of that of this many settings.
        random_seed: of the simulation.
    """
    rng = np.random.default_rng(random_seed)
    tables = []
    for _ in range(settings):
        shared = noise(rng, (trials, seeds, 1))
        attacked = draw_shares(rng, truth.attacked, truth.sd, shared, noise)
        clean = draw_shares(rng, truth.clean, truth.sd, shared, noise)
        tables.append((attacked, clean))
    held = 0
    for trial in range(trials):
        drawn = [(attacked[trial], clean[trial]) for attacked, clean in tables]
        interval = seed_interval(lambda weights, drawn=drawn: mean_protection(weights, drawn), seeds)
        assert interval, f"{seeds} seeds are too few for an interval"
        held += interval.low <= truth.protection <= interval.high
    return held / trials


def mean_protection(weights: Array, settings: list[tuple[Array, Array]]) -> Array:
    """Return the mean protection [b] over settings of shares [seeds defenses], attacked and clean."""
    values = [1 - (weights @ attacked).max(1) / (weights @ clean).max(1) for attacked, clean in settings]
    return np.mean(values, axis=0)


def print_table(trials: int = 2000) -> None:
    """Print the coverage in percent of every situation with 3 / 5 / 10 seeds, a column per kind of noise."""
    columns: dict[str, tuple[Noise, int]] = {
        "normal": (normal, 1),
        "mean of 4 settings": (normal, 4),
        "skewed up": (skewed_up, 1),
        "skewed down": (skewed_down, 1),
    }
    situations = [("clear winner", 1), *product(SITUATIONS, (3, 10, 20))]
    rows = []
    for name, defenses in situations:
        row = {"defenses": "no choice" if defenses == 1 else f"{defenses}, {name}"}
        for label, (noise, settings) in columns.items():
            shares = (coverage(SITUATIONS[name](defenses), n, trials, noise, settings) for n in (3, 5, 10))
            row[label] = " / ".join(f"{100 * share:.1f}" for share in shares)
        rows.append(row)
    print(markdown_table(rows))


if __name__ == "__main__":
    print_table()
