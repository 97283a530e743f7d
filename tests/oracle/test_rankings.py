"""Rankings over datasets against SciPy, scikit-posthocs and numbers worked out by hand."""

from itertools import combinations

import numpy as np
import pytest
from pandas import DataFrame
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats

from leaderboard.frame import to_frame
from leaderboard.sections.datasets import (
    critical_difference,
    friedman_p_value,
    protection_by_dataset,
    rank_over_datasets,
    render_datasets,
    studentized_range,
)
from leaderboard.sections.groups import (
    pairwise_intervals,
    render_groups,
    seed_orders,
    unordered_groups,
)
from leaderboard.statistics import Interval
from tests.records import make_record


def random_protections(attacks: int, datasets: int) -> DataFrame:
    rng = np.random.default_rng(attacks)
    values = rng.normal(np.linspace(1, 0, attacks)[:, None], 0.3, (attacks, datasets)).round(1)
    return DataFrame(values, index=[f"a{number}" for number in range(attacks)])


@pytest.mark.parametrize(("attacks", "datasets"), [(3, 4), (6, 9), (10, 5)])
def test_friedmans_test_is_scipys(attacks: int, datasets: int) -> None:
    protections = random_protections(attacks, datasets)
    expected = stats.friedmanchisquare(*protections.to_numpy())
    assert friedman_p_value(protections) == pytest.approx(float(expected.pvalue))
    assert friedman_p_value(protections * 0) == 1.0


@pytest.mark.parametrize("groups", [2, 5, 20])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_studentized_range_is_scipys(groups: int, alpha: float) -> None:
    expected = stats.studentized_range.ppf(1 - alpha, groups, np.inf)
    assert studentized_range(groups, alpha) == pytest.approx(float(expected), abs=1e-3)


def test_critical_difference_is_that_of_demsar() -> None:
    # Demšar 2006, Sec. 3.2.2: q = 2.569 for four classifiers, on 14 datasets.
    assert critical_difference(4, 14) == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)


def test_critical_differences_part_what_scikit_posthocs_does() -> None:
    protections = random_protections(6, 9)
    p_values = posthoc_nemenyi_friedman(protections.to_numpy().T).to_numpy()
    ranks = rank_over_datasets(protections)["rank"].loc[protections.index].to_numpy()
    parted = [abs(ranks[a] - ranks[b]) > critical_difference(6, 9) for a, b in combinations(range(6), 2)]
    assert parted == [p_values[a, b] < 0.05 for a, b in combinations(range(6), 2)]
    assert 0 < sum(parted) < len(parted)


def test_ranks_over_datasets_by_hand() -> None:
    protections = DataFrame({"x": [0.9, 0.5, 0.1], "y": [0.4, 0.4, 0.8]}, index=["a", "b", "c"])
    table = rank_over_datasets(protections)
    # On y, a and b share ranks 2 and 3.
    assert table["rank"].to_dict() == {"a": 1.75, "c": 2.0, "b": 2.25}
    assert table["borda"].to_dict() == {"a": 2.5, "c": 2.0, "b": 1.5}
    assert table["mean"].to_dict() == pytest.approx({"a": 0.65, "c": 0.45, "b": 0.45})


def test_groups_are_the_largest_runs_without_an_order() -> None:
    apart, same = Interval(0.5, 0.1, 0.9), Interval(0.1, -0.3, 0.5)
    ordered = {("a", "c"), ("a", "d"), ("b", "d")}
    intervals = {pair: apart if pair in ordered else same for pair in combinations("abcd", 2)}
    assert unordered_groups("abcd", intervals) == [["a", "b"], ["b", "c"], ["c", "d"]]
    assert unordered_groups("abcd", dict.fromkeys(intervals, apart)) == []
    assert unordered_groups("abcd", dict.fromkeys(intervals)) == [list("abcd")]


def records(datasets: tuple[str, ...] = ("digits",), seeds: int = 5):
    scores = {"clean": 1.0, "tap": 0.3, "em": 0.5, "lsp": 0.505}
    rng = np.random.default_rng(0)
    return [
        make_record(
            {"a": score + (attack != "clean") * float(rng.normal(0, 0.01))},
            attack=attack,
            dataset=dataset,
            seed=seed,
        )
        for dataset in datasets
        for attack, score in scores.items()
        for seed in range(seeds)
    ]


def test_the_board_names_what_the_seeds_cannot_order() -> None:
    frame = to_frame(records())
    intervals = pairwise_intervals(frame[frame["attack"] != "clean"], ["tap", "em", "lsp"])
    assert {pair: interval.includes_zero for pair, interval in intervals.items() if interval} == {
        ("tap", "em"): False,
        ("tap", "lsp"): False,
        ("em", "lsp"): True,
    }
    assert render_groups(seed_orders(frame)).endswith("\n- em, lsp")
    assert "cannot order" in render_groups(seed_orders(to_frame(records(seeds=2))))


def test_one_dataset_has_no_ranking_over_datasets() -> None:
    assert render_datasets(to_frame(records())) == ""
    frame = to_frame(records(("digits", "faces")))
    assert list(protection_by_dataset(frame).columns) == ["digits", "faces"]
    # Three attacks on two datasets: q = 3.314, 3.314 √(3 · 4 / 24) = 2.34, more than any ranks differ.
    assert "no two differ that much" in render_datasets(frame)
