"""Do attacks protect, and does the cheapest one protect least? On the embedded digits."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from bench.api import CraftContext
from bench.catalog import make
from bench.engine.pipeline import seeded
from bench.engine.poisoning import quantise, release
from bench.net import MultiTaskNet
from bench.training import Recipe, fit, score

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
EPSILON = 8
SEED = 0
RECIPE = Recipe(epochs=8, batch=32, learning_rate=1.5e-3)
BACKBONE = "small(width=8)"
FLOOR = 0.1
"""Balanced accuracy of guessing one digit out of ten."""

EM = "em(rounds=10, surrogate_steps=47, steps=2, step_size=2.0, batch=32, stop_error=0)"
MTL_UE = (
    "mtl-ue-em(rounds=6, surrogate_steps=94, batch=32, width=2, embedding_channels=4, learning_rate=0.002,"
    " intra=2, inter=10, stop_error=0)"
)


@pytest.fixture(scope="module")
def learned() -> Callable[[str], float]:
    """What a victim learns of *left* and *right* above the floor, by attack; each is run once."""
    data = make("dataset", "digits(train=1500, test=500)").load(None, Path())

    def new_net() -> MultiTaskNet:
        return MultiTaskNet(make("backbone", BACKBONE), data.tasks, channels=3)

    @cache
    def measure(attack: str) -> float:
        context = CraftContext(
            data.tasks, data.augmentation, EPSILON / 255, new_net, [], CPU, lambda *_: None
        )
        with seeded("craft", SEED):
            noise = make("attack", attack).craft(data.train, context)
            change, _ = quantise(noise, data.train, EPSILON, CPU, attack)
        released = replace(data.train, images=release(data.train.images, change, EPSILON, attack))
        balancer, no_defense = make("weighting", "ew").start(data.tasks), make("defense", "none")
        with seeded("victim", SEED):
            net = new_net()
            for _ in fit(net, released, data.tasks, RECIPE, data.augmentation, balancer, no_defense, CPU):
                pass
        scores = score(net, data.test, data.tasks, data.augmentation, CPU)
        halves = [scores[task]["balanced_accuracy"] for task in ("left", "right")]
        return sum(value for value in halves if value is not None) / 2 - FLOOR

    return measure


def test_digits_are_learned_from_clean_images(learned: Callable[[str], float]) -> None:
    assert learned("clean") > 0.5


@pytest.mark.parametrize("attack", [EM, MTL_UE], ids=["em", "mtl-ue-em"])
def test_crafted_noise_takes_away_more_than_half_and_random_noise_less(
    attack: str, learned: Callable[[str], float]
) -> None:
    assert learned(attack) < 0.5 * learned("clean")
    assert learned(attack) < learned("random") - 0.1


def test_random_noise_leaves_more_than_half(learned: Callable[[str], float]) -> None:
    assert learned("random") > 0.5 * learned("clean")
