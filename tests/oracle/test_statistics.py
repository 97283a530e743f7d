"""Statistics against SciPy's own and against numbers worked out by hand."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from pandas import DataFrame, Series
from scipy import stats
from statsmodels.stats.multitest import multipletests

from leaderboard.paired_games import compare_games
from leaderboard.statistics import (
    MAX_EXACT_SEEDS,
    Interval,
    adjust_by_holm,
    compare_pairs,
    seed_interval,
    seed_means,
    seed_spread,
)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    return seed_interval(lambda weights: weights @ np.array(values), len(values), level)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("size", [3, 5, 6, 30])
def test_interval_is_that_of_scipys_t_test(size: int, level: float) -> None:
    values = [float(value) for value in np.random.default_rng(size).normal(0.3, 0.1, size)]
    interval = mean_interval(values, level)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert interval
    assert (interval.low, interval.high) == pytest.approx((float(expected.low), float(expected.high)))


def test_interval_by_hand() -> None:
    # Mean 2, standard deviation 1, t(0.975; 2) = 4.302653: 2 ± 4.302653 / √3.
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-5)
    assert interval.includes_zero


@pytest.mark.parametrize("values", [[], [0.4], [0.4, 0.5]])
def test_fewer_than_three_values_have_no_interval(values: list[float]) -> None:
    assert mean_interval(values) is None


def test_equal_values_have_an_interval_without_width() -> None:
    interval = mean_interval([0.25, 0.25, 0.25])
    assert interval
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-9)


def test_seeds_by_hand() -> None:
    # Seed 0: (0.1 + 0.3) / 2, seed 1: 0.6; their standard deviation is 0.4 / √2.
    values, seeds = Series([0.1, 0.3, 0.6, float("nan")]), Series([0, 0, 1, 2])
    assert seed_means(values, seeds) == pytest.approx([0.2, 0.6])
    assert seed_spread(values, seeds) == pytest.approx(0.4 / 2**0.5)
    assert seed_spread(values[:2], seeds[:2]) is None


def test_paired_comparison_by_hand() -> None:
    differences = Series([0.2, 0.4, -0.1, 0.004, 0.1, float("nan")])
    seeds = Series([0, 0, 1, 1, 2, 2])
    paired = compare_pairs(differences, seeds)
    assert (paired.pairs, paired.seeds) == (5, 3)
    assert (paired.wins, paired.ties, paired.losses) == (3, 1, 1)
    # Seed means 0.3, -0.048, 0.1.
    assert paired.mean == pytest.approx(0.352 / 3)
    expected = stats.ttest_1samp([0.3, -0.048, 0.1], 0.0).confidence_interval(0.95)
    assert paired.interval
    assert paired.interval.low == pytest.approx(float(expected.low))


@pytest.mark.parametrize(
    "means",
    [[0.1, 0.2], [0.1, 0.1, 0.1], [0.3, -0.05, 0.1], [0.5, 0.2, -0.1, 0.4, 0.3, -0.6], [0.0, 0.0, 0.0]],
)
def test_p_value_is_the_share_of_sign_flips_as_extreme(means: list[float]) -> None:
    flips = [
        abs(sum(sign * mean for sign, mean in zip(signs, means, strict=True)))
        for signs in product((-1, 1), repeat=len(means))
    ]
    share = sum(flip >= abs(sum(means)) - 1e-12 for flip in flips) / len(flips)
    paired = compare_pairs(Series(means), Series(range(len(means))))
    assert paired.p_value == pytest.approx(share)
    # SciPy permutes a single sample of type "samples" by flipping signs; 2ⁿ resamples are all sign flips.
    test = stats.permutation_test([means], np.mean, permutation_type="samples", n_resamples=2 ** len(means))
    assert paired.p_value == pytest.approx(float(test.pvalue))


def test_p_value_is_left_out_where_it_would_not_be_exact() -> None:
    size = MAX_EXACT_SEEDS + 1
    assert compare_pairs(Series([0.1] * size), Series(range(size))).p_value is None
    assert compare_pairs(Series([0.1]), Series([0])).p_value is None


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holm_is_that_of_statsmodels(size: int) -> None:
    p_values = [float(p) for p in np.random.default_rng(size).uniform(0, 0.1, size)]
    expected = multipletests(p_values, method="holm")[1]
    assert adjust_by_holm(p_values) == pytest.approx(list(expected))


def test_holm_by_hand() -> None:
    # 0.01 · 3, then max(0.03, 0.02 · 2), then max(0.04, 0.03 · 1); a missing one is no part of the family.
    assert adjust_by_holm([0.03, 0.01, None, 0.02]) == pytest.approx([0.04, 0.03, None, 0.04])
    assert adjust_by_holm([0.6, 0.7]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []


def test_the_sign_flip_test_of_a_game_exchanges_whole_seeds() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 0.2, (2, 3, 4)), rng.normal(0.6, 0.2, (2, 3, 4))  # games, defenses, seeds
    names = ["game", "defense", "seed"]
    cells = DataFrame(list(np.ndindex(a.shape)), columns=names)
    cells = cells.assign(protection_a=a.ravel(), protection_b=b.ravel(), difference=(a - b).ravel())

    def difference(exchanged: tuple[bool, ...]) -> float:
        left, right = np.where(exchanged, b, a), np.where(exchanged, a, b)
        return float((left.mean(2).min(1) - right.mean(2).min(1)).mean())

    values = [abs(difference(exchanged)) for exchanged in product((False, True), repeat=4)]
    paired = compare_games(cells, ["game"], ["defense"])
    assert paired.mean == pytest.approx(difference((False,) * 4))
    assert paired.p_value == np.mean([value >= values[0] - 1e-12 for value in values])
    assert paired.interval
    # A cell less, and a resample could be without it.
    assert compare_games(cells[1:], ["game"], ["defense"]).interval is None
