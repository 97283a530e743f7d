"""What must hold of protection and of the statistics whatever the numbers."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame, Series

from bench.record import Record
from leaderboard.frame import to_frame
from leaderboard.paired_games import compare_games
from leaderboard.ranking import rank_attacks
from leaderboard.scores import MIN_HEADROOM
from leaderboard.statistics import compare_pairs, seed_interval, seed_means, seed_spread
from tests.records import make_record, task_info

SCORE = st.floats(0.0, 1.0)
FINITE = st.floats(-10, 10)
PAIRS = st.lists(st.tuples(FINITE, st.integers(0, 4)), min_size=1, max_size=20)


def protection(clean: float, poisoned: float, floor: float, perfect: float) -> float:
    tasks = {"a": task_info(floor=floor, perfect=perfect)}
    records = [
        make_record({"a": clean}, tasks=tasks, attack="clean"),
        make_record({"a": poisoned}, tasks=tasks),
    ]
    return float(to_frame(records).query("attack == 'em'")["protection"].iloc[0])


@settings(max_examples=40, deadline=None)
@given(clean=st.floats(0.3, 1.0), poisoned=SCORE, scale=st.floats(0.1, 50), shift=FINITE, down=st.booleans())
def test_protection_does_not_depend_on_the_unit_of_the_metric(
    clean: float, poisoned: float, scale: float, shift: float, down: bool
) -> None:
    factor = -scale if down else scale
    moved = (factor * value + shift for value in (clean, poisoned, 0.2, 1.0))
    assert protection(*moved) == pytest.approx(protection(clean, poisoned, 0.2, 1.0), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(clean=SCORE, poisoned=SCORE, floor=st.floats(0.0, 0.9))
def test_protection_is_one_at_the_floor_and_zero_at_the_clean_score(
    clean: float, poisoned: float, floor: float
) -> None:
    if (clean - floor) / (1 - floor) < MIN_HEADROOM:
        assert math.isnan(protection(clean, poisoned, floor, 1.0))
    else:
        assert protection(clean, floor, floor, 1.0) == pytest.approx(1.0)
        assert protection(clean, clean, floor, 1.0) == 0.0
        assert (protection(clean, poisoned, floor, 1.0) > 1) == (clean - poisoned > clean - floor)


@st.composite
def boards(draw: st.DrawFn) -> list[Record]:
    """A matrix with holes of two attacks, three defenses and two seeds, each with its clean counterpart."""
    cells = st.tuples(
        st.sampled_from(["em", "tap"]), st.sampled_from(["none", "jpeg", "blur"]), st.integers(0, 1)
    )
    chosen = draw(st.lists(cells, min_size=1, max_size=12, unique=True))
    victims = sorted({(defense, seed) for _, defense, seed in chosen})
    always = {("none", seed) for _, seed in victims}
    clean = [
        make_record({"a": draw(SCORE), "b": 0.9}, attack="clean", defense=defense, seed=seed)
        for defense, seed in sorted({*victims, *always})
    ]
    poisoned = [
        make_record({"a": draw(SCORE), "b": draw(SCORE)}, attack=attack, defense=defense, seed=seed)
        for attack, defense, seed in chosen
    ]
    return clean + poisoned


@settings(max_examples=20, deadline=None)
@given(records=boards(), order=st.integers(0, 9))
def test_a_choice_never_helps_the_attack_and_no_order_matters(records: list[Record], order: int) -> None:
    frame = to_frame(records)
    ranked = rank_attacks(frame)
    assert not (ranked["protection"] > ranked["undefended"] + 1e-9).any()
    assert ranked["protection"][:-1].dropna().is_monotonic_decreasing
    # The headline is the smallest mean over seeds of the protections of one defense.
    cells = frame.groupby(["attack", "defense", "seed"])["protection"].mean()
    smallest = cells.groupby(level=["attack", "defense"]).mean().groupby(level="attack").min()
    headlines = ranked.set_index("attack")["protection"]
    assert headlines.to_dict() == pytest.approx(smallest[headlines.index].to_dict(), nan_ok=True)
    assert ranked["attack"].iloc[-1] == "clean"
    shuffled = list(records)
    random.Random(order).shuffle(shuffled)
    assert rank_attacks(to_frame(shuffled)).equals(ranked)


@given(
    values=st.lists(FINITE, min_size=3, max_size=10),
    others=st.lists(FINITE, min_size=10, max_size=10),
    shift=FINITE,
)
def test_the_interval_surrounds_the_estimate_and_moves_with_it(
    values: list[float], others: list[float], shift: float
) -> None:
    choices = np.array([values, others[: len(values)]])
    interval, moved = (
        seed_interval(lambda weights, shift=shift: (weights @ choices.T).max(1) + shift, len(values))
        for shift in (0.0, shift)
    )
    wide = seed_interval(lambda weights: (weights @ choices.T).max(1), len(values), level=0.99)
    assert interval
    assert moved
    assert wide
    assert interval.mean == pytest.approx(choices.mean(1).max(), abs=1e-9)
    assert interval.low <= interval.mean <= interval.high
    assert moved.mean == pytest.approx(interval.mean + shift, abs=1e-9)
    assert moved.high - moved.low == pytest.approx(interval.high - interval.low, abs=1e-6)
    assert wide.high - wide.low >= interval.high - interval.low


@given(pairs=PAIRS)
def test_swapping_the_sides_mirrors_the_comparison(pairs: list[tuple[float, int]]) -> None:
    differences, seeds = (Series(column) for column in zip(*pairs, strict=True))
    there, back = compare_pairs(differences, seeds), compare_pairs(-differences, seeds)
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert there.wins + there.ties + there.losses == there.pairs == len(pairs)
    assert there.mean == pytest.approx(-(back.mean or 0.0))
    assert (there.interval is None) == (there.seeds < 3)
    assert there.p_value == pytest.approx(back.p_value)


@given(pairs=PAIRS)
def test_repeating_a_pair_within_its_seed_adds_no_evidence(pairs: list[tuple[float, int]]) -> None:
    differences, seeds = (Series(column) for column in zip(*(pairs + pairs), strict=True))
    once = compare_pairs(differences[: len(pairs)], seeds[: len(pairs)])
    twice = compare_pairs(differences, seeds)
    assert twice.seeds == once.seeds
    assert twice.mean == pytest.approx(once.mean)
    if once.interval and twice.interval:
        assert twice.interval.low == pytest.approx(once.interval.low, abs=1e-9)


@given(pairs=PAIRS)
def test_seeds_are_averaged_before_their_spread_is_taken(pairs: list[tuple[float, int]]) -> None:
    values, seeds = (Series(column) for column in zip(*pairs, strict=True))
    means = seed_means(values, seeds)
    spread = seed_spread(values, seeds)
    assert len(means) == seeds.nunique()
    assert (spread is None) == (len(means) < 2)
    constant = seed_spread(values * 0 + 3.0, seeds)
    assert constant in (None, 0.0)


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(FINITE, FINITE, st.integers(0, 1)), min_size=2, max_size=12))
def test_a_game_is_compared_with_its_choice(pairs: list[tuple[float, float, int]]) -> None:
    cells = DataFrame(pairs, columns=["protection_a", "protection_b", "defense"]).assign(game=0)
    cells["seed"] = cells.groupby("defense").cumcount()
    cells["difference"] = cells["protection_a"] - cells["protection_b"]
    by_defense = cells.groupby("defense")[["protection_a", "protection_b"]].mean()
    paired = compare_games(cells, ["game"], ["defense"])
    assert paired.mean == pytest.approx(by_defense["protection_a"].min() - by_defense["protection_b"].min())
    swapped = cells.rename(columns={"protection_a": "protection_b", "protection_b": "protection_a"})
    back = compare_games(swapped.assign(difference=-cells["difference"]), ["game"], ["defense"])
    assert back.mean == pytest.approx(-(paired.mean or 0), abs=1e-9)
    assert back.p_value == pytest.approx(paired.p_value)
