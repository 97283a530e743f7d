"""Every part of the catalog passes the checks of `bench conform`."""

from functools import cache

import pytest

from bench.catalog.parts import CATALOG
from bench.conformance.cases import CASES
from bench.conformance.contracts import CONTRACTS, put_under_test
from bench.conformance.dataset_checks import DatasetUnderTest
from bench.conformance.part import Check, PartUnderTest
from bench.conformance.part_checks import PART_CHECKS
from bench.conformance.report import run_checks

FAMILY_PARTS = (
    *(f"torchvision:{name}" for name in ("mobilenet_v3_small", "squeezenet1_1")),
    *(f"timm:{name}" for name in ("test_resnet", "test_vit(size=64)", "test_convnext")),
)
"""Backbones that are no entries of the catalog."""

COMPOSED_DEFENSES = ("jpeg(quality=30)+cutmix", "none+mixup+ueraser")

EXTRA_PARTS = {"backbone": FAMILY_PARTS, "defense": COMPOSED_DEFENSES}

CASES_OF_TEST = [
    pytest.param(
        *(axis, name, check),
        id=f"{axis}-{name}-{check.name.replace(' ', '-')}",
        marks=pytest.mark.xdist_group(f"{axis} {name}"),  # one process, which crafts or builds it once
    )
    for axis, parts in CATALOG.items()
    for name in (*parts, *EXTRA_PARTS.get(axis, ()))
    for check in CONTRACTS[axis].checks  # innermost, so that the tests of one part follow each other
]

put_under_test_once = cache(put_under_test)
"""The parts under test, whose craftings and networks are kept for all their checks."""


def with_data_root(tested: PartUnderTest, request: pytest.FixtureRequest) -> PartUnderTest:
    """Give a dataset that needs one the data root; the test is skipped where there is none."""
    if isinstance(tested, DatasetUnderTest) and tested.missing is not None:
        tested.data_root = request.getfixturevalue("data_root")
        if tested.missing is not None:
            pytest.skip(tested.missing)
    return tested


@pytest.mark.parametrize(("axis", "name", "check"), CASES_OF_TEST)
def test_a_part_keeps_its_contract(
    axis: str, name: str, check: Check, request: pytest.FixtureRequest
) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    tested = put_under_test_once(axis, name)
    if check.name not in WITHOUT_DATA:
        tested = with_data_root(tested, request)
    failures = [verdict for verdict in run_checks(tested, [check]) if verdict.failure is not None]
    assert failures == []


WITHOUT_DATA = {*(check.name for check in PART_CHECKS), "says what is missing"}
"""Checks of a dataset that do not load it: those of every part, and that of a missing data root."""


def test_every_axis_has_a_contract() -> None:
    assert set(CONTRACTS) == set(CATALOG)
    for contract in CONTRACTS.values():
        assert len({check.name for check in contract.checks}) == len(contract.checks)


def test_the_generators_serve_images_they_have_not_seen() -> None:
    (check,) = (check for check in CONTRACTS["attack"].checks if check.name == "serves unseen images")
    for attack in ("mtl-ue-em", "mtl-ue-tap", "mtl-ue-sep"):
        assert [v.not_applicable for v in run_checks(put_under_test_once("attack", attack), [check])] == [
            None
        ] * len(check.cases), attack


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
