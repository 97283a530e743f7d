"""What every attack of the catalog keeps to on training sets of many kinds: the checks of `bench conform`."""

from functools import cache

import pytest
import torch

from bench.catalog.table import CATALOG
from bench.conformance.cases import CASES, PLAIN_CASE
from bench.conformance.checks import CHECKS, Check
from bench.conformance.craft_run import AttackUnderTest
from bench.conformance.report import run_checks

attacks = pytest.mark.parametrize("attack", CATALOG["attack"])


@cache
def trial(attack: str) -> AttackUnderTest:
    """An attack's craftings, kept for all the checks that look at them."""
    return AttackUnderTest(attack)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name.replace(" ", "-"))
@attacks  # innermost, so that the tests of one attack follow each other
def test_an_attack_keeps_its_contract(attack: str, check: Check) -> None:
    verdicts = list(run_checks(trial(attack), [check]))
    assert [verdict for verdict in verdicts if verdict.failure is not None] == []


@attacks
def test_another_seed_gives_another_poison_where_chance_has_a_part(attack: str) -> None:
    change, other = (trial(attack).again(PLAIN_CASE, seed=seed).change for seed in (0, 1))
    assert torch.equal(change, other) == getattr(trial(attack).kind, "deterministic", False)


@attacks
def test_a_long_crafting_uses_its_checkpoint(attack: str) -> None:
    trial(attack).crafting(PLAIN_CASE)
    assert bool(trial(attack).saves(PLAIN_CASE)) == getattr(trial(attack).kind, "resumable", False)


def test_the_generators_serve_images_they_have_not_seen() -> None:
    (check,) = (check for check in CHECKS if check.name == "serves images it has not seen")
    serving = {
        attack for attack in CATALOG["attack"] if next(run_checks(trial(attack), [check])).beside is None
    }
    assert serving == {"mtl-ue-em", "mtl-ue-tap", "mtl-ue-sep"}


def test_the_training_sets_are_of_the_kinds_that_are_promised() -> None:
    cases = CASES.values()
    assert {1, 2, 3, 11, 40} == {len(case.classes) for case in cases}
    assert {1, 3} == {case.channels for case in cases}
    assert (
        {min(case.classes) > 2 for case in cases}
        == {max(case.classes) == 2 for case in cases}
        == {True, False}
    )
    assert {0.0, 0.1, 0.5, 1.0} == {case.missing for case in cases}
    assert {True, False} == {case.dense for case in cases}
    for case in cases:
        split = case.split()
        labeled = {t.name: float(t.labeled(split.targets[t.name]).float().mean()) for t in case.tasks}
        for number, share in enumerate(labeled.values()):
            assert share == pytest.approx(0.0 if number in case.unlabeled else 1 - case.missing, abs=0.25)
