"""The checks of a regime."""

from bench.conformance.part import Check, ContractError, PartUnderTest
from bench.conformance.weighting_checks import COUNTS, TASKS


def trains_every_task_once(tested: PartUnderTest, case: str) -> None:
    """Check that every task is in one group, and no group is empty."""
    tasks = TASKS[: COUNTS[case]]
    groups = tested.part.groups(tasks)
    if not all(groups):
        raise ContractError("groups() returns a group without a task")
    if sorted(task.name for group in groups for task in group) != sorted(task.name for task in tasks):
        raise ContractError("groups() does not put every task into one group")


REGIME_CHECKS = (Check("trains every task once", trains_every_task_once, tuple(COUNTS)),)
"""The contract of a regime."""
