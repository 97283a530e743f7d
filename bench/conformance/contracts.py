"""The contract of every axis: its checks, and what they are run on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.catalog.choice import Choice
from bench.conformance.attack_checks import ATTACK_CHECKS
from bench.conformance.backbone_checks import BACKBONE_CHECKS, BackboneUnderTest
from bench.conformance.craft_run import AttackUnderTest
from bench.conformance.dataset_checks import DATASET_CHECKS, DatasetUnderTest
from bench.conformance.defense_checks import DEFENSE_CHECKS, DefenseUnderTest
from bench.conformance.part import Check, PartUnderTest
from bench.conformance.part_checks import PART_CHECKS
from bench.conformance.regime_checks import REGIME_CHECKS
from bench.conformance.weighting_checks import WEIGHTING_CHECKS


@dataclass(frozen=True)
class Contract:
    """What is checked of the parts of an axis.

    Attributes:
        checks: the checks, in order.
        case_name: what the cases of a check are.
    """

    checks: tuple[Check, ...]
    case_name: str

    @property
    def verdict_count(self) -> int:
        """Number of verdicts on a part."""
        return sum(len(check.cases) or 1 for check in self.checks)


CONTRACTS: Mapping[str, Contract] = {
    "dataset": Contract(PART_CHECKS + DATASET_CHECKS, "datasets"),
    "attack": Contract(PART_CHECKS + ATTACK_CHECKS, "training sets"),
    "backbone": Contract(PART_CHECKS + BACKBONE_CHECKS, "image shapes"),
    "weighting": Contract(PART_CHECKS + WEIGHTING_CHECKS, "numbers of tasks"),
    "defense": Contract(PART_CHECKS + DEFENSE_CHECKS, "training sets"),
    "regime": Contract(PART_CHECKS + REGIME_CHECKS, "networks and tasks"),
}
"""Axis → its contract."""


def put_under_test(axis: str, choice: Choice | str, data_root: Path | None = None) -> PartUnderTest:
    """Build a part of any axis with what its checks need; only a dataset needs the data root."""
    if axis == "attack":
        return AttackUnderTest(choice)
    if axis == "dataset":
        return DatasetUnderTest(axis, choice, data_root)
    kinds = {"backbone": BackboneUnderTest, "defense": DefenseUnderTest}
    return kinds.get(axis, PartUnderTest)(axis, choice)
