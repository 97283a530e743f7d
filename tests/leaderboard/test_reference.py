"""A committed reference: what it holds, how it is read and written, and when it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.record import PROTOCOL, Record
from leaderboard.reference import read_reference, summarize_records, write_reference
from leaderboard.regression import check_against_reference
from tests.records import cost, fail, make_record


def run() -> list[Record]:
    """Two attacks whose tasks go from a floor of 0.5 to 1, in two seeds."""
    return [
        make_record({"a": score + 0.01 * seed, "b": score}, attack=attack, seed=seed)
        for attack, score in (("clean", 0.9), ("em", 0.6))
        for seed in (0, 1)
    ]


def test_summary_by_hand() -> None:
    costs = {"craft": cost(10.0, host=400.0), "train": cost(30.0, host=600.0)}
    record = make_record({"a": 0.75, "b": 0.5}, costs=costs, seed=3)
    summary = summarize_records([record])
    assert (summary["suite"], summary["protocol"]) == ("synthetic", PROTOCOL)
    assert summary["environment"] == {"device": "cpu", "threads": 1}
    dataset, poison, cell = summary["items"].values()
    assert list(summary["items"]) == ["digits", "digits · em", "digits · em · small · ew · none · mtl"]
    assert [item["attack"] for item in (dataset, poison, cell)] == ["", "em", "em"]
    assert dataset["seeds"]["3"]["a balanced_accuracy floor"] == 0.5
    assert dataset["seeds"]["3"]["b accuracy perfect"] == 1.0
    assert dataset["seeds"]["3"]["a test labels"] == 100
    assert (
        poison["seeds"]["3"].items()
        >= {"linf": 8.0, "craft_s": 10.0, "b linear_balanced_accuracy": 0.8}.items()
    )
    assert cell["seeds"]["3"] == {
        "score": 0.25,  # (0.5 + 0) / 2 of the way from the floor to 1
        **{"a accuracy": 0.75, "a balanced_accuracy": 0.75, "b accuracy": 0.5, "b balanced_accuracy": 0.5},
        "train_s": 30.0,
        "peak_host_mb": 600.0,
    }


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "smoke.json"
    reference = summarize_records(run())
    write_reference(path, reference)
    assert read_reference(path) == reference
    assert [file.name for file in path.parent.iterdir()] == ["smoke.json"]


def _damage(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_reference_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "smoke.json"
    with pytest.raises(BenchError, match=r"cannot read the reference .*smoke\.json: No such file"):
        read_reference(path)
    write_reference(path, summarize_records(run()))
    content = path.read_text()
    path.write_text(content[:100])
    with pytest.raises(BenchError, match="is damaged"):
        read_reference(path)
    path.write_text(content.replace("0.9", "0.7"))
    with pytest.raises(BenchError, match="is damaged"):
        read_reference(path)
    for damaged in ("[" * 5000, content.replace("0.9", "NaN")):
        path.write_text(damaged)
        with pytest.raises(BenchError, match="is damaged"):
            read_reference(path)
    path.write_text("[]")
    with pytest.raises(BenchError, match="is not a reference"):
        read_reference(path)
    for schema in (1, 99):
        path.write_text(content)
        _damage(path, schema=schema)
        with pytest.raises(
            BenchError, match=rf"has schema {schema}, this version reads schema 2; `bench check"
        ):
            read_reference(path)


def test_a_reference_is_only_made_of_a_complete_run() -> None:
    with pytest.raises(BenchError, match="this one failed: digits · em"):
        summarize_records([*run(), fail(seed=2)])
    with pytest.raises(BenchError, match="there is none"):
        summarize_records([])


def test_another_protocol_is_refused() -> None:
    earlier = [make_record({"a": 0.9}, changes={"protocol": 1})]
    with pytest.raises(BenchError, match="protocol 1 and the records protocol 2"):
        check_against_reference(summarize_records(earlier), run())
