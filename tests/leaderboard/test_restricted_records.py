"""Results restricted to some values of an axis are those of a run with ``--only``."""

from collections.abc import Callable

import pytest

from bench.errors import BenchError
from bench.record import Record
from leaderboard.restricted_records import restrict_records
from tests.records import make_record

RECORDS = [
    make_record({"a": 0.9}, attack=attack, defense=defense, seed=seed)
    for attack in ("clean", "em", "em(steps=5)", "tap")
    for defense in ("none", "jpeg", "cutmix")
    for seed in (0, 1)
]


def is_of_em(record: Record) -> bool:
    return str(record.cell["attack"]).startswith(("clean", "em"))


@pytest.mark.parametrize(
    ("only", "is_kept"),
    [
        ([], lambda record: True),
        (["attack=em"], is_of_em),
        (["attack=em(steps=5)"], lambda record: record.cell["attack"] in ("clean", "em(steps=5)")),
        (
            ["defense=jpeg"],
            lambda record: record.cell["defense"] in ("jpeg", *["none"] * (record.cell["attack"] == "clean")),
        ),
        (["seed=1", "attack=em, em"], lambda record: record.cell["seed"] == 1 and is_of_em(record)),
    ],
)
def test_wanted_records_and_their_references_are_kept(
    only: list[str], is_kept: Callable[[Record], bool]
) -> None:
    assert restrict_records(RECORDS, only) == [record for record in RECORDS if is_kept(record)]


@pytest.mark.parametrize("only", ["attack", "attacks=em", "attack=rem", "seed=2", "attack=em("])
def test_what_no_record_has_is_refused(only: str) -> None:
    with pytest.raises(BenchError):
        restrict_records(RECORDS, [only])
