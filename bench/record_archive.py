"""Many records in one file, without their learning curves: what is published of a run.

The file is gzipped JSON Lines. The first line has the layout's version and a checksum of all others; then
every line is a record, sorted by key. The same records give the same bytes.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import orjson

from bench.errors import BenchError
from bench.files import hash_bytes, require_file
from bench.record import Record
from bench.shared_parts import Pool, share_parts

ARCHIVE_SCHEMA = 1
"""Version of the layout."""

_FIELDS = {field.name for field in fields(Record)} - {"curve"}


def encode_archive(records: Iterable[Record]) -> bytes:
    """Return the content of the file."""
    rows = {record.key: asdict(record) for record in records}
    for row in rows.values():
        del row["curve"]
    lines = [
        json.dumps(rows[key], separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        for key in sorted(rows)
    ]
    body = "".join(f"{line}\n" for line in lines).encode()
    header = json.dumps({"archive": ARCHIVE_SCHEMA, "checksum": hash_bytes(body)})
    # Without a time in the file, the same records are the same bytes.
    return gzip.compress(f"{header}\n".encode() + body, mtime=0)


def read_archive(path: Path) -> list[Record]:
    """Return the records of a file, with empty learning curves, sorted by key.

    Raises:
        BenchError: if the file cannot be read, is damaged, of another layout or no archive.
    """
    try:
        header, _, body = gzip.decompress(require_file(path).read_bytes()).partition(b"\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BenchError(f"{path} is damaged or not an archive of records: {error}") from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        about = json.loads(header)
        is_archive = isinstance(about, dict) and "archive" in about
        if is_archive and about["archive"] == ARCHIVE_SCHEMA and about.get("checksum") == hash_bytes(body):
            pool: Pool = {}
            return [_to_record(path, orjson.loads(line), pool) for line in body.splitlines()]
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: {error}") from error
    if not is_archive:
        raise BenchError(f"{path} is not an archive of records")
    if about["archive"] != ARCHIVE_SCHEMA:
        raise BenchError(
            f"{path} has schema {about['archive']}, this version reads schema {ARCHIVE_SCHEMA}; "
            "`bench report --format archive --output FILE` writes one from the folder of a run"
        )
    raise BenchError(f"{path} is damaged: its checksum does not match")


def _to_record(path: Path, row: object, pool: Pool) -> Record:
    if not isinstance(row, dict) or row.keys() != _FIELDS:
        raise BenchError(f"{path} is damaged: a line is not a record")
    return Record(**share_parts(row, pool))
