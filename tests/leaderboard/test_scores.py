"""Relative scores and protection are the same numbers for one record and for a whole table."""

import math

import pytest
from pandas import DataFrame

from bench.record import relative_score
from leaderboard.frame import to_frame
from leaderboard.scores import is_bounded, is_partial, mean_relative_score, protection, relative_scores
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


def test_one_range_keeps_the_proportions_of_the_scores() -> None:
    frame = DataFrame({"score": [0.5, 0.6], "floor": [0.1, 0.5], "perfect": [1.0, 1.0]})
    # Ranges of 0.9 and 0.5 have a mean of 0.7.
    assert list(relative_scores(frame, one_range=True)) == pytest.approx([0.4 / 0.7, 0.1 / 0.7])
    assert list(relative_scores(frame)) == pytest.approx([0.4 / 0.9, 0.1 / 0.5])


def test_protection_of_numbers_and_of_columns() -> None:
    frame = DataFrame({"clean": [0.9, 0.4], "score": [0.7, 1.5], "floor": [0.5, 2.0]})
    by_number = [protection(*row) for row in frame.itertuples(index=False, name=None)]
    assert list(protection(frame["clean"], frame["score"], frame["floor"])) == by_number
    assert by_number == pytest.approx([0.5, 0.6875])


@pytest.mark.parametrize(
    ("labels", "bounded", "partial"),
    [
        ({}, True, False),
        ({"bounded": False}, False, False),
        ({"rate": 0.5}, True, True),
        ({"protected": ["a"]}, True, True),
        ({"protected": ["b", "a"]}, True, False),
    ],
)
def test_track_and_scope_of_a_record(labels: dict[str, object], bounded: bool, partial: bool) -> None:
    record = make_record({"a": 0.5, "b": 0.5}, **labels)  # type: ignore[arg-type]
    assert (is_bounded(record), is_partial(record)) == (bounded, partial)


def test_a_failed_record_without_tasks_is_not_partial() -> None:
    assert not is_partial(fail())
