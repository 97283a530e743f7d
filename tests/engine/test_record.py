"""Records: what was written is read again, and nothing else is."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.record import (
    AXES,
    SCHEMA,
    Epoch,
    Failure,
    Record,
    digest,
    read_note,
    read_record,
    read_records,
    write_atomically,
    write_note,
    write_record,
)

KEY = "0123456789abcdef"


def make(key: str = KEY, **changes: Any) -> Record:
    labels: list[str | int] = ["digits", "em", "small", "ew", "jpeg(quality=30)", "mtl", 4]
    scores: dict[str, dict[str, float | None]] = {"left": {"accuracy": 0.1 + 0.2, "auroc": None}}
    record = Record(
        key=key,
        status="done",
        suite="tiny",
        cell=dict(zip(AXES, labels, strict=True)),
        victim="victim",
        poison="poison",
        settings={"attack": {"name": "em", "params": {"step_size": 1e-7}}, "note": "ε = 8/255, „δ“"},
        scores=scores,
        curve=[Epoch(epoch=1, train_loss=None, learning_rate=1e-3, weights={"left": 1.0}, scores=scores)],
        finished="2026-03-01T12:00:00+00:00",
    )
    return dataclasses.replace(record, **changes)


def content(body: object, schema: object = SCHEMA) -> str:
    """Return a record file's text, with a checksum that fits."""
    return json.dumps({"schema": schema, "checksum": digest(body), "record": body})


def complaint(path: Path) -> str:
    with pytest.raises(BenchError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        make(),
        make(status="failed", error=Failure(type="ValueError", message="no", traceback="a\nb\n"), scores={}),
    ],
)
def test_what_was_written_is_read(tmp_path: Path, record: Record) -> None:
    path = write_record(tmp_path / "records", record)
    assert path == tmp_path / "records" / f"{KEY}.json"
    assert read_record(path) == record
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_the_same_record_is_the_same_bytes(tmp_path: Path) -> None:
    first = write_record(tmp_path, make()).read_bytes()
    assert write_record(tmp_path, make()).read_bytes() == first
    assert "„δ“" in first.decode()  # for people to read


def test_a_label_lists_the_axes_in_their_order() -> None:
    shuffled = make(cell=dict(sorted(make().cell.items())))
    assert shuffled.label == make().label == "digits · em · small · ew · jpeg(quality=30) · mtl · seed 4"


@pytest.mark.parametrize("length", [0, 1, 100, -3])
def test_a_truncated_record(tmp_path: Path, length: int) -> None:
    path = write_record(tmp_path, make())
    path.write_bytes(path.read_bytes()[:length])
    assert "is damaged" in complaint(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.30000000000000004", "0.9"), ('"em"', '"tap"'), ('"done"', '"failed"'), ('"seed": 4', '"seed": 5')],
)
def test_an_altered_record(tmp_path: Path, old: str, new: str) -> None:
    path = write_record(tmp_path, make())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert "checksum does not match" in complaint(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_number_that_is_none(tmp_path: Path, value: str) -> None:
    path = write_record(tmp_path, make())
    path.write_text(path.read_text().replace("0.30000000000000004", value))
    assert "is damaged" in complaint(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is damaged" in complaint(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"schema": 1}'])
def test_json_that_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(text)
    assert "is not a record" in complaint(path)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "1", None])
def test_another_schema(tmp_path: Path, schema: object) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(content(dataclasses.asdict(make()), schema))
    assert f"schema {schema}" in complaint(path)


@pytest.mark.parametrize(
    "body", [{}, {"key": KEY}, {**dataclasses.asdict(make()), "more": 1}, [KEY], [{}], 3]
)
def test_a_body_with_other_fields(tmp_path: Path, body: object) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(content(body))
    complaint(path)


def test_a_record_under_anothers_name(tmp_path: Path) -> None:
    path = write_record(tmp_path, make()).rename(tmp_path / "fedcba9876543210.json")
    assert "is not the record its name says" in complaint(path)


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    assert os.strerror(2) in complaint(tmp_path / f"{KEY}.json")


def test_a_folder_gives_its_records_and_its_errors(tmp_path: Path) -> None:
    records = [make(key) for key in ("aa", "cc")]
    for record in records[::-1]:
        write_record(tmp_path, record)
    (tmp_path / "bb.json").write_text("{")
    (tmp_path / ".dd.json.123.tmp").write_text("half")
    (tmp_path / "notes.txt").write_text("mine")
    found = list(read_records(tmp_path))
    assert [found[0], found[2]] == records
    assert isinstance(found[1], BenchError)
    assert "bb.json" in str(found[1])
    assert list(read_records(tmp_path / "nowhere")) == []


def test_scores_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, make(noise={"linf": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=r"cannot write .*file: No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("below", ["file/x", "file/deep/x"])
def test_a_place_that_cannot_be_written_to(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BenchError, match="cannot write") as caught:
        write_atomically(tmp_path / below, "text")
    assert str(tmp_path / below) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_digest_is_of_the_content_and_not_of_its_spelling() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": (1, 2)}) == digest({"a": [1, 2]})


def test_notes_of_what_was_left_out(tmp_path: Path) -> None:
    assert read_note(tmp_path) == []
    write_note(tmp_path, "tiny", ["dataset 'utkface' is not there"])
    assert read_note(tmp_path) == ["dataset 'utkface' is not there"]


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"left_out": 3}', '{"left_out": null}'])
def test_a_damaged_note_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert read_note(tmp_path) == []
