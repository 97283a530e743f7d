"""Does every defense undo an attack it is known to undo, and fail where it is known to fail? On the digits.

Limits leave room for the spread over seeds. Faint digits are not photographs: adversarial training gets an
eighth of the usual radius, since few epochs teach a network nothing with a larger one.
"""

from collections.abc import Callable
from statistics import fmean

import pytest

from bench.record import Record
from tests.effect.exploit import RECIPE
from tests.engine import tiny

# One process, in which they share poisons and victims.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("defenses on digits")]

CLASSWISE = "em-classwise(portion=1.0, rounds=6, surrogate_steps=20)"
TAP = "tap-untargeted(steps=10, step_size=1.6, restarts=1)"
PROJECTION = "orthogonal-projection(batch=64)"
ADVERSARIAL = "adversarial(radius=1, steps=1, step_size=1)"

Learned = Callable[..., float]


@pytest.mark.parametrize("attack", ["lsp", CLASSWISE], ids=["lsp", "em-classwise"])
@pytest.mark.parametrize("defense", ["jpeg", PROJECTION], ids=["jpeg", "orthogonal-projection"])
def test_patterns_of_a_class_are_undone(attack: str, defense: str, learned: Learned) -> None:
    check_undone(attack, defense, learned)


def test_patches_are_undone_by_adversarial_training(learned: Learned) -> None:
    check_undone("lsp", ADVERSARIAL, learned)


def check_undone(attack: str, defense: str, learned: Learned) -> None:
    """Check that an attack leaves little and that a defense brings most of it back."""
    assert learned(attack) < 0.4 * learned("clean")
    assert learned(attack, defense) > 1.6 * learned(attack)
    assert learned(attack, defense) > 0.5 * learned("clean", defense)


def test_adversarial_poison_is_not_undone_by_grayscale(learned: Learned) -> None:
    assert learned(TAP) < 0.8 * learned("clean")
    assert learned(TAP, "grayscale") < 0.8 * learned("clean", "grayscale")
    assert learned(TAP, "grayscale") < learned(TAP)


def test_patterns_of_a_class_are_not_undone_by_grayscale(learned: Learned) -> None:
    assert learned(CLASSWISE, "grayscale") < 0.5 * learned("clean", "grayscale")


PROBE = "linear-probe(share=0.5)"


@pytest.fixture(scope="module")
def above_guessing(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[float, Record]]:
    """What victims learn of *left* and *right* where images are set aside, by attack and defense."""
    plan = tiny.plan(
        matrix={"attack": ["lsp"], "defense": ["early-stopping", PROBE]},
        recipe={"epochs": RECIPE.epochs, "batch": RECIPE.batch, "learning_rate": RECIPE.learning_rate},
        params={
            "dataset": {"digits": {"train": 1500, "test": 500}},
            "backbone": {"small": {"width": 8}},
        },
    )
    out = tmp_path_factory.mktemp("aside")
    tiny.run(plan, out)
    above = {}
    for record in tiny.records(out).values():
        scores = [record.scores[task]["balanced_accuracy"] or 0.0 for task in ("left", "right")]
        cell = str(record.cell["attack"]), str(record.cell["defense"])
        above[cell] = ((fmean(scores) - 0.1) / 0.9, record)
    return above


def test_what_was_learned_from_clean_images_is_not_taken_away(
    above_guessing: dict[tuple[str, str], tuple[float, Record]], learned: Learned
) -> None:
    probed = {cell[0]: score for cell, (score, _) in above_guessing.items() if cell[1] == PROBE}
    assert learned("lsp") < 0.4 * learned("clean")
    assert probed["lsp"] > 0.8 * probed["clean"]
    assert probed["lsp"] > 1.5 * learned("lsp")


def test_early_stopping_cannot_tell_by_images_that_carry_the_noise(
    above_guessing: dict[tuple[str, str], tuple[float, Record]], learned: Learned
) -> None:
    stopped = {cell[0]: score for cell, (score, _) in above_guessing.items() if cell[1] != PROBE}
    assert stopped["lsp"] < 0.4 * stopped["clean"]
    assert stopped["clean"] > 0.9 * learned("clean")
    _, record = above_guessing["lsp", "early-stopping"]
    assert max(fmean(epoch["validation"].values()) for epoch in record.curve) > 0.9
