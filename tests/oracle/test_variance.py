"""The sources of the spread over seeds, on records whose variances are known."""

from itertools import product

import numpy as np
import pytest

from bench.record import Record
from leaderboard.sections.variance import render_variance, variance_by_source
from tests.records import make_record


def attacked(protection: float, images: int, poison: int, victim: int, attack: str = "em") -> Record:
    """Return a cell on a floor of 0.5 whose clean victim scores 1."""
    seeds = f"{attack}-{images}-{poison}"
    return make_record(
        {"a": 1 - protection / 2},
        attack=attack,
        seed=victim,
        settings={
            "dataset": {"name": "digits", "version": 1, "params": {"data_seed": images}},
            "poison_seed": poison,
            "seed": victim,
        },
        changes={"poison": seeds, "key": f"{seeds}-{victim}"},
    )


CLEAN = [make_record({"a": 1.0}, attack="clean")]


def test_two_sources_by_hand() -> None:
    # Poison 1 adds 0.2, victim 1 adds 0.1. Half the squared differences: 0.02 for both pairs that differ in
    # the poison, 0.005 for those that differ in the victim, 0.045 and 0.005 for the two that differ in both.
    # Least squares: the normal equations are 4 p + 2 v = 0.09 and 2 p + 4 v = 0.06, so p = 0.02, v = 0.005.
    cells = [
        attacked(0.2 * poison + 0.1 * victim, 0, poison, victim) for poison, victim in product((0, 1), (0, 1))
    ]
    table = variance_by_source([*CLEAN, *cells]).set_index("source")
    assert table["sd"].to_dict() == pytest.approx({"poison": 0.02**0.5, "victim": 0.005**0.5})
    assert table["share"].to_dict() == pytest.approx({"poison": 0.8, "victim": 0.2})
    assert table["draws"].to_dict() == {"poison": 2, "victim": 2}
    assert "| poison" in render_variance([*CLEAN, *cells])


def test_three_sources_are_found_in_nested_and_crossed_seeds() -> None:
    rng = np.random.default_rng(1)
    cells = []
    for attack in (f"em(steps={number})" for number in range(60)):
        by_images, by_victim = rng.normal(0, 0.1, 4), rng.normal(0, 0.02, 4)
        by_poison = rng.normal(0, 0.05, (4, 3))
        cells += [
            attacked(0.5 + by_images[d] + by_poison[d, p] + by_victim[v], d, p, v, attack)
            for d, p, v in product(range(4), range(3), range(4))
            if (d + p + v) % 3  # not all of them were run
        ]
    sd = variance_by_source([*CLEAN, *cells]).set_index("source")["sd"]
    assert sd.to_dict() == pytest.approx({"images": 0.1, "poison": 0.05, "victim": 0.02}, rel=0.15)


def test_sources_that_vary_together_cannot_be_told_apart() -> None:
    together = [attacked(0.1 * seed, seed, seed, seed) for seed in range(3)]
    assert not len(variance_by_source([*CLEAN, *together]))
    assert render_variance([*CLEAN, *together]) == ""
    fixed_poison = [
        attacked(0.1 * images + 0.02 * seed, images, 0, seed) for images, seed in product(range(2), range(2))
    ]
    assert list(variance_by_source([*CLEAN, *fixed_poison])["source"]) == ["images and poison", "victim"]
    assert not len(variance_by_source([]))
