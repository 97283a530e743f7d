"""What every attack of the catalog keeps to on training sets of many kinds: the checks of `bench conform`."""

from functools import cache
from typing import Any

import pytest
import torch

from bench.catalog.table import CATALOG
from bench.conformance.cases import CASES, PLAIN_CASE
from bench.conformance.checks import CHECKS, Check
from bench.conformance.craft_run import AttackUnderTest
from bench.conformance.report import run_checks

ENSEMBLE = {"snapshots": 2, "steps": 2, "batch": 20}
GENERATOR = {"rounds": 2, "batch": 20, "width": 4, "embedding_channels": 2}
PROJECTED = {"steps": 2, "step_size": 1.6, "batch": 20}

QUICK: dict[str, dict[str, Any]] = {
    "em": {**PROJECTED, "rounds": 2, "surrogate_steps": 2},
    "em-classwise": {"rounds": 2, "surrogate_steps": 2, "step_size": 1.6, "batch": 20},
    "rem": {"iterations": 3, "steps": 2, "samples": 2, "attack_steps": 1, "batch": 20},
    "tap": {**PROJECTED, "restarts": 2},
    "tap-untargeted": {**PROJECTED, "restarts": 2},
    "sep": ENSEMBLE,
    "sep-fa": ENSEMBLE,
    "sep-fa-vr": {**ENSEMBLE, "inner_steps": 2},
    "pil": {"epochs": 2, "steps": 2, "batch": 20},
    "uc": {"clusters": 3, "rounds": 2, "batch": 20, "width": 4},
    "mtl-ue-em": {**GENERATOR, "surrogate_steps": 2},
    "mtl-ue-tap": GENERATOR,
    "mtl-ue-sep": {**GENERATOR, "snapshots": 2},
}
"""Attack → parameters that make it quick; an attack that is not here is crafted with its defaults."""

NOT_RANDOM = {"clean", "ops", "sep", "sep-fa"}
"""Attacks that are the same under every seed, given the surrogates."""

NO_CHECKPOINT = {"clean", "random", "random-samplewise", "lsp", "ar", "ops", "cuda"}
"""Attacks that are crafted too quickly to be worth a checkpoint."""

attacks = pytest.mark.parametrize("attack", CATALOG["attack"])


@cache
def trial(attack: str) -> AttackUnderTest:
    """An attack's craftings, kept for all the checks that look at them."""
    return AttackUnderTest(attack, QUICK.get(attack))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name.replace(" ", "-"))
@attacks  # innermost, so that the tests of one attack follow each other
def test_an_attack_keeps_its_contract(attack: str, check: Check) -> None:
    verdicts = list(run_checks(trial(attack), [check]))
    assert [verdict for verdict in verdicts if verdict.failure is not None] == []


@attacks
def test_another_seed_gives_another_poison_where_chance_has_a_part(attack: str) -> None:
    change, other = (trial(attack).again(PLAIN_CASE, seed=seed).change for seed in (0, 1))
    assert torch.equal(change, other) == (attack in NOT_RANDOM)


@attacks
def test_a_long_crafting_uses_its_checkpoint(attack: str) -> None:
    trial(attack).crafting(PLAIN_CASE)
    assert (trial(attack).saves(PLAIN_CASE) == 0) == (attack in NO_CHECKPOINT)


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
