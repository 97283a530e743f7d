"""The intervals of the board hold the truth as often as they say; docs/statistics.md has the whole table."""

import numpy as np
import pytest

from leaderboard.statistics import seed_interval
from tests.simulation.coverage import SITUATIONS, coverage, mean_protection


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("situation", "defenses"),
    [("clear winner", 1), ("close", 10), ("all tied", 20), ("all tied under attack", 20)],
)
def test_intervals_hold_the_truth_at_their_level(situation: str, defenses: int, seeds: int) -> None:
    # 1000 trials: the standard error of a coverage of 95 % is 0.7 %.
    assert 0.93 <= coverage(SITUATIONS[situation](defenses), seeds, 1000, random_seed=1) <= 0.975


def test_an_interval_that_holds_the_choice_misses_the_truth_of_ties() -> None:
    truth = SITUATIONS["all tied under attack"](20)
    rng = np.random.default_rng(0)
    attacked, clean = (
        means + truth.sd * rng.normal(size=(300, 10, 20)) for means in (truth.attacked, truth.clean)
    )
    held = 0
    for trial in range(300):
        best = attacked[trial].mean(0).argmax()
        left = 1 - attacked[trial, :, best] / clean[trial].mean(0).max()
        interval = seed_interval(lambda weights, left=left: weights @ left, 10)
        assert interval
        held += interval.low <= truth.protection <= interval.high
    assert held / 300 < 0.85


def test_two_seeds_are_too_few() -> None:
    assert seed_interval(lambda weights: weights @ np.array([0.1, 0.2]), 2) is None


def test_an_interval_by_hand() -> None:
    # Two choices over three seeds, (0, 0, 3) and (3, 0, 0): both have the mean 1. A little more weight on the
    # first or the last seed picks the choice that gains, so the slopes are 2, -1, 2 and the standard error
    # √(9 / 6); t(0.975; 2) = 4.30265. In the 27 draws the larger count of these two seeds is 3 twice, 2 in 12
    # and 1 in 12: a mean of 14 / 9, so b = 5 / 9 and b / (√(5 / 3) - 1) = 1.90915.
    shares = np.array([[0.0, 3.0], [0.0, 0.0], [3.0, 0.0]])
    interval = seed_interval(lambda weights: (weights @ shares).max(1), 3)
    assert interval
    half = 4.30265 * 1.5**0.5
    expected = (1.0, 1 - half - 1.90915, 1 + half - 5 / 9)
    assert (interval.mean, interval.low, interval.high) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seeds", [3, 10])
def test_the_estimate_is_in_its_interval_and_repeats(seeds: int) -> None:
    rng = np.random.default_rng(1)
    shares = [(rng.normal(0.5, 0.1, (seeds, 20)), rng.normal(1, 0.1, (seeds, 20))) for _ in range(3)]
    interval = seed_interval(lambda weights: mean_protection(weights, shares), seeds)
    assert interval
    assert interval.low < interval.mean < interval.high
    assert interval == seed_interval(lambda weights: mean_protection(weights, shares), seeds)
