"""Intervals and paired comparisons, with the seed as the unit of replication.

Cells of one seed share the data order, the initial weights and, for one attack, the poison: they are not
independent. So values are first averaged within a seed, and the spread is computed over seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pandas import Series
from scipy.special import stdtrit

TIE = 0.005
"""Differences up to this size count as ties: they disappear when rounded to two decimals."""

MAX_EXACT_SEEDS = 16
"""With up to this many seeds all 2ⁿ sign flips are enumerated; with more there is no p-value."""


MIN_INTERVAL_SEEDS = 3
"""With fewer seeds there is no interval of a statistic that makes a choice."""

MAX_ENUMERATED_SEEDS = 5
"""With up to this many seeds all draws with replacement are enumerated; with more, `RESAMPLES` are made."""

RESAMPLES = 400
"""Draws with replacement of more than `MAX_ENUMERATED_SEEDS` seeds."""

Weights = NDArray[np.float64]
"""How much every seed counts, [resamples, seeds]; every row sums to 1."""


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether 0 is within the interval."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class PairedDifferences:
    """A summary of paired differences A - B.

    Attributes:
        pairs: number of differences.
        seeds: number of seeds they come from.
        wins: differences above `TIE`; ``losses`` those below -`TIE`, ``ties`` the rest.
        mean: mean over seeds of the mean difference within a seed; None without pairs.
        interval: its 95 % interval over seeds, see `seed_interval`.
        p_value: two-sided, from all sign flips of the seeds' differences; None with fewer than two or more
            than `MAX_EXACT_SEEDS` seeds. With n seeds it is at least 2 / 2ⁿ.
    """

    pairs: int
    seeds: int
    wins: int
    losses: int
    ties: int
    mean: float | None
    interval: Interval | None
    p_value: float | None


def seed_interval(
    statistic: Callable[[Weights], NDArray[np.float64]], seeds: int, level: float = 0.95
) -> Interval | None:
    """Return a statistic that makes a choice, and its interval over seeds; None with too few seeds.

    Half the interval is Student's t times the standard error with the choice held. A maximum of means is too
    large on average, since the luckiest is chosen. A bootstrap that repeats the choice tells by how much (b),
    but too little if several are tied: it resamples means that already lie apart. With n seeds and any number
    of exact ties of normal means the truth is b / (√(2 - 1/n) - 1). The two ends of the interval are moved
    back by the two figures. `docs/statistics.md` has the coverage.

    Args:
        statistic: maps weights [b n] to values [b]. A row says how much every seed counts and sums to 1;
            the uniform row gives the estimate. Choices, such as that of a defense, are made anew per row.
        seeds: number of seeds n.
        level: two-sided confidence.
    """
    if seeds < MIN_INTERVAL_SEEDS:
        return None
    weights, probabilities, step = _resamples(seeds)
    values = statistic(weights)
    estimate = float(values[0])
    slopes = (values[1 : seeds + 1] - estimate) / step
    standard_error = float(np.sum(slopes**2) / (seeds * (seeds - 1))) ** 0.5
    half = float(stdtrit(seeds - 1, (1 + level) / 2)) * standard_error
    bias = float(probabilities @ values[seeds + 1 :]) - estimate
    bias_of_ties = bias / ((2 - 1 / seeds) ** 0.5 - 1)
    low = estimate - half - max(bias, bias_of_ties)
    high = estimate + half - min(bias, bias_of_ties)
    return Interval(estimate, min(low, estimate), max(high, estimate))


@cache
def _resamples(seeds: int) -> tuple[Weights, NDArray[np.float64], float]:
    """Return all weights of an interval, the probabilities of the resamples, and the step of the slopes.

    The first row is uniform, in row i + 1 seed i counts a little more, and the rest are resamples.
    """
    step = 1e-4
    tilted = np.full((seeds, seeds), (1 - step) / seeds) + step * np.eye(seeds)
    if seeds <= MAX_ENUMERATED_SEEDS:
        draws = np.indices((seeds,) * seeds).reshape(seeds, -1).T
    else:  # balanced: every seed is drawn equally often, so that a mean over seeds has exactly no bias
        order = np.random.default_rng(0).permutation(np.tile(np.arange(seeds), RESAMPLES))
        draws = order.reshape(RESAMPLES, seeds)
    counts = np.stack([np.sum(draws == seed, axis=1) for seed in range(seeds)], axis=1)
    resamples, times = np.unique(counts, axis=0, return_counts=True)
    weights = np.concatenate([np.full((1, seeds), 1 / seeds), tilted, resamples / seeds])
    weights.flags.writeable = False
    return weights, times / times.sum(), step


def seed_means(values: "Series[float]", seeds: "Series[int]") -> list[float]:
    """Return the mean of each seed's values in the order of the seeds, missing values left out."""
    present = values.notna()
    return [float(mean) for mean in values[present].groupby(seeds[present]).mean()]


def mean_over_seeds(values: "Series[float]", seeds: "Series[int]") -> float | None:
    """Return the mean of the per-seed means, None without values."""
    means = seed_means(values, seeds)
    return float(np.mean(means)) if means else None


def seed_spread(values: "Series[float]", seeds: "Series[int]") -> float | None:
    """Return the sample standard deviation of the per-seed means, None with fewer than two seeds."""
    means = seed_means(values, seeds)
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def compare_pairs(differences: "Series[float]", seeds: "Series[int]") -> PairedDifferences:
    """Summarize paired differences; missing ones are left out.

    Args:
        differences: A - B, one per pair.
        seeds: the seed of each pair, with the same index.
    """
    present = differences.notna()
    differences, means = differences[present], np.array(seed_means(differences, seeds), np.float64)
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    return PairedDifferences(
        pairs=len(differences),
        seeds=len(means),
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
        mean=float(np.mean(means)) if len(means) else None,
        interval=seed_interval(lambda weights: weights @ means, len(means)),
        p_value=sign_flip_p_value(lambda signs: signs @ means, len(means)),
    )


def sign_flip_p_value(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], seeds: int
) -> float | None:
    """Return the share of the 2ⁿ sign flips whose statistic is at least as far from 0 as without a flip.

    The test is exact if, within a seed, both sides of a difference could as well be exchanged. SciPy's
    ``permutation_test`` is not used: importing it takes longer than the rest of a report.

    Args:
        statistic: maps signs [2ⁿ n] of the seeds' differences to values [2ⁿ].
        seeds: number of seeds n.

    Returns:
        None with fewer than two or more than `MAX_EXACT_SEEDS` seeds.
    """
    if not 2 <= seeds <= MAX_EXACT_SEEDS:
        return None
    # Row i flips the seeds whose bit is set in i; row 0 flips none.
    flipped = np.arange(2**seeds)[:, None] >> np.arange(seeds) & 1
    distances = np.abs(statistic((1 - 2 * flipped).astype(np.float64)))
    return float(np.mean(distances >= distances[0] * (1 - 1e-12)))


def adjust_by_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values that hold for all of them together (Holm, Scand. J. Statist. 1979), missing ones None.

    Args:
        p_values: of one family, such as the rows of one table.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = largest
    return adjusted
