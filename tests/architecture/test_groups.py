"""Tests of one group run in one process, which crafts and trains once what they share."""

import pytest


@pytest.mark.xdist_group("one process")
def test_tests_are_sent_to_processes_by_their_group(request: pytest.FixtureRequest) -> None:
    is_distributed = hasattr(request.config, "workerinput")
    assert request.node.nodeid.endswith("@one process") == is_distributed, "pytest-xdist ignores groups"
