"""Relative scores and protection are the same numbers for one record and for a whole table."""

import math

import pytest

from bench.record import relative_score
from leaderboard.frame import to_frame
from leaderboard.scores import (
    is_clearly_positive,
    is_partial,
    mean_relative_score,
    relative_scores,
    track_of,
)
from tests.records import ROOM, fail, make_record, make_room, task_info


def test_columns_hold_the_very_numbers_of_the_records() -> None:
    record = make_room(dict(zip(ROOM, (0.3, 0.7, -0.2), strict=True)))
    expected = [
        relative_score(info, record.scores[task][info["scored"]]) for task, info in record.tasks.items()
    ]
    assert list(relative_scores(to_frame([record]))) == expected
    assert expected == pytest.approx([0.3, 0.7, -0.2])
    assert mean_relative_score(record.scores, record.tasks) == pytest.approx(0.8 / 3)


def test_a_score_without_a_range_or_a_value_has_no_relative_score() -> None:
    tasks = {"a": task_info(floor=1.0, perfect=1.0), "b": task_info(), "c": task_info()}
    record = make_record({"a": 1.0, "b": None, "c": 0.75}, tasks=tasks)
    assert [math.isnan(value) for value in relative_scores(to_frame([record]))] == [True, True, False]
    assert mean_relative_score(record.scores, tasks) == 0.5
    assert mean_relative_score({}, tasks) is None


@pytest.mark.parametrize(
    ("labels", "track", "partial"),
    [
        ({}, "linf", False),
        ({"settings": {"norm": "l2"}}, "l2", False),
        ({"bounded": False}, "unbounded", False),
        ({"bounded": False, "settings": {"norm": None}}, "unbounded", False),
        ({"rate": 0.5}, "linf", True),
        ({"protected": ["a"]}, "linf", True),
        ({"protected": ["b", "a"]}, "linf", False),
    ],
)
def test_track_and_scope_of_a_record(labels: dict[str, object], track: str, partial: bool) -> None:
    record = make_record({"a": 0.5, "b": 0.5}, **labels)  # type: ignore[arg-type]
    assert (track_of(record), is_partial(record)) == (track, partial)


def test_a_failed_record_without_tasks_is_not_partial() -> None:
    assert not is_partial(fail())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([0.05], True),
        ([0.049], False),
        # One-sided t of 0.95 with one and two degrees of freedom: 6.31 and 2.92 standard errors.
        ([0.10, 0.13], True),  # 0.115 against 6.31 · 0.015
        ([0.10, 0.14], False),  # 0.120 against 6.31 · 0.020
        ([0.01, 0.01, 0.01], True),
        ([0.0, 0.0, 0.0], False),
        ([0.0, 0.1, 0.2], False),  # 0.1 against 2.92 · 0.058
        ([0.05, 0.1, 0.15], True),  # 0.1 against 2.92 · 0.029
    ],
)
def test_what_is_clearly_above_0(values: list[float], expected: bool) -> None:
    assert is_clearly_positive(values) is expected
