"""The protection of single cells while records come in is that of the tables."""

import random
from collections.abc import Iterable

import pytest

from bench.record import Record
from leaderboard.cell_protection import CellProtections
from leaderboard.frame import to_frame
from tests.records import fail, make_record, matrix

LEARNED = {
    "clean": {"none": [0.0, 0.1, 0.0], "jpeg": [0.0, 0.0, 0.1], "mixup": [-0.1, -0.1, -0.1]},
    "em": {"none": [0.9, 0.8, 0.7], "jpeg": [0.1, 0.3, 0.2]},
    "tap": {"none": [0.99, 0.99, 0.9], "mixup": [0.5, 0.5, 0.5]},
}


def in_tables(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    frame = to_frame(records)
    rows = frame[frame["defined"]]
    return {
        key: dict(zip(of["task"], map(pytest.approx, of["protection"]), strict=True))
        for key, of in rows.groupby("key")
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_cell_is_named_once_when_its_protection_is_known_and_has_that_of_the_tables(seed: int) -> None:
    records = matrix(LEARNED)
    random.Random(seed).shuffle(records)
    protections, known = CellProtections(), set[str]()
    for count, record in enumerate(records, start=1):
        new = protections.add(record)
        tables = in_tables(records[:count])
        assert new.keys() == tables.keys() - known
        assert {key: tables[key] for key in new} == new
        known |= new.keys()
        assert tables == protections.by_cell()
    assert known == {record.key for record in records}
    assert protections.add(records[0]) == {}


def test_records_of_an_earlier_run_are_known_from_the_start() -> None:
    clean, em, tap = (make_record({"a": s}, attack=a) for a, s in (("clean", 0.9), ("em", 0.7), ("tap", 0.5)))
    assert CellProtections([clean, em]).add(tap) == {tap.key: {"a": pytest.approx(1.0)}}
    waited = CellProtections([em, tap]).add(clean)
    assert waited == in_tables([clean, em, tap])


def test_of_a_cell_that_was_finished_twice_the_last_has_a_protection_and_a_failed_one_has_none() -> None:
    clean, new = make_record({"a": 0.9}, attack="clean"), make_record({"a": 0.7}, attack="em")
    old = make_record(
        {"a": 0.6}, attack="em", changes={"finished": "2026-01-01T00:00:00+00:00", "key": "0" * 16}
    )
    for order in ([clean, old, new], [new, old, clean], [clean, new, old, fail(attack="tap")]):
        assert CellProtections(order).by_cell() == in_tables(order)
        assert old.key not in CellProtections(order).by_cell()
