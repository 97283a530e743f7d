"""An archive holds every record but its learning curve, and refuses whatever is no archive."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.files import hash_bytes
from bench.record import Record, write_record
from bench.record_archive import encode_archive, read_archive
from tests.cli.test_cli import bench
from tests.records import make_record

RECORDS = [
    make_record({"a": 0.5}, attack=attack, seed=seed)
    for attack in ("clean", "em\u2028\r\n")
    for seed in (0, 1)
]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(encode_archive(RECORDS))
    return path


def test_records_come_back_without_their_curves(archive: Path) -> None:
    by_key = sorted(RECORDS, key=lambda record: record.key)
    assert read_archive(archive) == [replace(record, curve=[]) for record in by_key]


def test_the_same_records_are_the_same_bytes() -> None:
    assert encode_archive(RECORDS[::-1] * 2) == encode_archive(RECORDS)


def changed(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return a change of what is compressed."""
    return lambda content: gzip.compress(change(gzip.decompress(content)))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[:-20], "is damaged"),
    "a flipped bit": (lambda old: old[:200] + bytes([old[200] ^ 1]) + old[201:], "is damaged"),
    "empty": (lambda _: b"", "is damaged"),
    "text": (lambda _: b"attack,protection\n", "is damaged or not an archive"),
    "another gzip": (changed(lambda _: b'{"rows": 3}\n'), "is not an archive"),
    "no JSON": (changed(lambda _: b"rows\n"), "is damaged"),
    "deep": (changed(lambda _: b"[" * 100_000), "is damaged"),
    "edited": (changed(lambda text: text.replace(b"0.5", b"0.9")), "checksum"),
    "newer": (changed(lambda text: text.replace(b'"archive": 1', b'"archive": 9')), "has schema 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_archive_is_refused_with_its_name(archive: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(BenchError, match=words) as caught:
        read_archive(archive)
    assert str(archive) in str(caught.value)


def test_a_line_that_is_no_record_is_refused(archive: Path) -> None:
    row = json.loads(gzip.decompress(archive.read_bytes()).splitlines()[1])
    body = json.dumps(row | {"other": 1}).encode() + b"\n"
    header = json.dumps({"archive": 1, "checksum": hash_bytes(body)}).encode() + b"\n"
    archive.write_bytes(gzip.compress(header + body))
    with pytest.raises(BenchError, match="a line is not a record"):
        read_archive(archive)


def test_report_writes_an_archive_and_reads_it_in_place_of_a_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "records").mkdir(parents=True)
    records: list[Record] = [
        make_record({"a": score}, attack=attack, seed=seed)
        for attack, score in (("clean", 0.9), ("em", 0.6), ("tap", 0.7))
        for seed in (0, 1)
    ]
    for record in records:
        write_record(run / "records", record)
    archive = tmp_path / "results.jsonl.gz"
    assert bench("report", "--out", run, "--format", "archive").code == 2
    assert bench("report", "--out", run, "--format", "archive", "--output", archive).code == 0
    for command in (["report"], ["report", "--format", "csv"], ["compare", "em", "tap"]):
        of_folder, of_archive = (bench(*command, "--out", out) for out in (run, archive))
        assert of_archive.code == 0
        assert of_archive.out == of_folder.out
