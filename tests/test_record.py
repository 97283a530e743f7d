"""Records: what was written is read again, and nothing else is."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.files import hash_json, write_atomically
from bench.record import (
    AXES,
    RECORD_SCHEMA,
    Epoch,
    Failure,
    Record,
    TaskInfo,
    read_record,
    read_records,
    relative_score,
    write_record,
)
from bench.run_summary import read_left_out, write_run_summary
from tests.records import cost

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


def content(body: object, schema: object = 1) -> str:
    """Return the text of a record file of schema 1, with a checksum that fits."""
    return json.dumps({"schema": schema, "checksum": hash_json(body), "record": body}, indent=1)


def signed(body: str) -> str:
    """Return the text of a record file of schema 2 with this text after its first line."""
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"schema": 2, "checksum": "{checksum}", "record":\n{body}'


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


def test_a_file_is_one_json_value_and_its_curve_comes_last(tmp_path: Path) -> None:
    path = write_record(tmp_path, make())
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found.pop("curve") == make().curve
    assert found["schema"] == RECORD_SCHEMA == 2
    assert found["record"] == {k: v for k, v in dataclasses.asdict(make()).items() if k != "curve"}
    first_line, _, rest = path.read_bytes().partition(b"\n")
    assert hashlib.sha256(rest).hexdigest() == found["checksum"]
    assert first_line.endswith(b'"record":')


def test_a_record_without_its_curve(tmp_path: Path) -> None:
    path = write_record(tmp_path, make())
    assert read_record(path, curve=False) == make(curve=[])
    assert list(read_records(tmp_path, curve=False)) == [make(curve=[])]
    path.write_text(path.read_text().replace('"train_loss": null', '"train_loss": 1'))
    with pytest.raises(BenchError, match="checksum does not match"):
        read_record(path, curve=False)


def test_texts_that_look_like_the_seam_before_the_curve(tmp_path: Path) -> None:
    note = ',\n"curve":\n'
    record = make(settings={"note": note, "curve": note, note: {"curve": [1]}}, suite=note)
    path = write_record(tmp_path, record)
    assert read_record(path) == record
    assert read_record(path, curve=False) == dataclasses.replace(record, curve=[])


@pytest.mark.parametrize("curve", [True, False])
def test_a_record_of_schema_1_is_read_and_written_in_the_present_one(tmp_path: Path, curve: bool) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(content(dataclasses.asdict(make())), encoding="utf-8")
    expected = make() if curve else make(curve=[])
    assert read_record(path, curve=curve) == expected
    write_record(tmp_path, read_record(path))
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == 2
    assert read_record(path, curve=curve) == expected


@pytest.mark.parametrize(("old", "new"), [("0.30000000000000004", "0.9"), ("0.30000000000000004", "NaN")])
def test_an_altered_record_of_schema_1(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(content(dataclasses.asdict(make())).replace(old, new))
    assert "is damaged" in complaint(path)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = write_record(tmp_path, make())
    sound = path.read_bytes()
    for place in range(len(sound)):
        for flipped in (0x01, 0x80):
            altered = bytearray(sound)
            altered[place] ^= flipped
            path.write_bytes(altered)
            with pytest.raises(BenchError):
                read_record(path, curve=False)


def test_a_file_that_another_program_has_spelt_anew(tmp_path: Path) -> None:
    path = write_record(tmp_path, make())
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert "checksum does not match" in complaint(path)


@pytest.mark.parametrize(
    ("floor", "perfect", "score", "expected"),
    [
        (0.5, 1.0, 0.75, 0.5),
        (0.5, 1.0, 0.25, -0.5),
        (4.0, 0.0, 1.0, 0.75),
        (1.0, 1.0, 1.0, None),
        (0, 1, None, None),
    ],
)
def test_a_score_relative_to_floor_and_perfect(
    floor: float, perfect: float, score: float | None, expected: float | None
) -> None:
    info = TaskInfo(
        kind="depth", headline="other", scored="m", floor={"m": floor}, perfect={"m": perfect}, test=1
    )
    assert relative_score(info, score) == expected


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


@pytest.mark.parametrize("schema", [RECORD_SCHEMA + 1, 0, "1", None])
def test_another_schema(tmp_path: Path, schema: object) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(content(dataclasses.asdict(make()), schema))
    sentence = complaint(path)
    assert f"has schema {schema}, this version reads schemas 1 and 2" in sentence
    # One that is written as the present schema is, but for the number.
    path.write_text(write_record(tmp_path, make()).read_text().replace('"schema": 2', '"schema": 3'))
    assert "has schema 3, this version reads schemas 1 and 2" in complaint(path)


BODY = dataclasses.asdict(make())


@pytest.mark.parametrize("body", [{}, {"key": KEY}, {**BODY, "more": 1}, [KEY], [{}], 3])
def test_a_body_with_other_fields(tmp_path: Path, body: object) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(content(body))
    assert "is not the record its name says" in complaint(path)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({key: value for key, value in BODY.items() if key not in ("curve", "victim")}),
        json.dumps({**BODY, "more": 1}),
        "[]",
        "3",
        "{",
        "[" * 100_000,
        "",
    ],
)
@pytest.mark.parametrize("curve", [',\n"curve":\n[]\n}\n', ',\n"curve":\n[', ""])
def test_a_body_with_other_fields_and_a_sound_checksum(tmp_path: Path, body: str, curve: str) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_text(signed(body + curve))
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
    assert hash_json({"a": 1, "b": [1.5, None]}) == hash_json({"b": [1.5, None], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    assert hash_json({"a": (1, 2)}) == hash_json({"a": [1, 2]})


def test_notes_of_what_was_left_out(tmp_path: Path) -> None:
    assert read_left_out(tmp_path) == []
    write_run_summary(tmp_path, "tiny", ["dataset 'utkface' is not there"])
    assert read_left_out(tmp_path) == ["dataset 'utkface' is not there"]


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"left_out": 3}', '{"left_out": null}'])
def test_a_damaged_note_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert read_left_out(tmp_path) == []


# -- what a cell took ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "shared", "seconds"),
    [({}, {"surrogate", "craft"}, 7.0), ({"purified": "p" * 16}, {"surrogate", "craft", "purify"}, 5.0)],
)
def test_a_cell_is_not_billed_for_what_it_shares(
    environment: dict[str, Any], shared: set[str], seconds: float
) -> None:
    costs = {phase: cost(s) for phase, s in {"surrogate": 100.0, "craft": 10.0, "purify": 2.0}.items()}
    record = make(environment=environment, cost={**costs, "train": cost(4.0), "evaluate": cost(1.0)})
    assert set(record.shared_phases) == shared
    assert record.own_seconds == seconds
