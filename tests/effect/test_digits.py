"""Do attacks protect, and does the cheapest one protect least? On the embedded digits."""

from collections.abc import Callable

import pytest

from tests.effect.exploit import EM

# One process, in which they share poisons and victims.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("effects on digits")]

MTL_UE = (
    "mtl-ue-em(rounds=6, surrogate_steps=94, batch=32, width=2, embedding_channels=4, learning_rate=0.002,"
    " intra=2, inter=10, stop_error=0)"
)


def test_digits_are_learned_from_clean_images(learned: Callable[..., float]) -> None:
    assert learned("clean") > 0.5


@pytest.mark.parametrize("attack", [EM, MTL_UE], ids=["em", "mtl-ue-em"])
def test_crafted_noise_takes_away_more_than_half_and_random_noise_less(
    attack: str, learned: Callable[..., float]
) -> None:
    assert learned(attack) < 0.5 * learned("clean")
    assert learned(attack) < learned("random") - 0.1


def test_random_noise_leaves_more_than_half(learned: Callable[..., float]) -> None:
    assert learned("random") > 0.5 * learned("clean")


def test_noise_that_says_nothing_of_the_labels_leaves_nearly_all(learned: Callable[..., float]) -> None:
    assert learned("random-samplewise") > 0.9 * learned("clean")


def test_autoregressive_noise_with_its_papers_budget_takes_most_of_a_single_task(
    learned: Callable[..., float], learned_alone: Callable[[str], float]
) -> None:
    """Clamped to 8/255 it takes next to nothing."""
    assert learned_alone("ar-l2") < 0.7 * learned("clean")
