"""A run's folder as several commands use it: find it, read its records, render its board, write output."""

import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.record import Record, read_record, read_records
from bench.record_archive import read_archive
from bench.text import to_printable

RUNS = Path("runs")
"""The folder of all runs, unless --out says otherwise: RUNS/SUITE is one run."""


def print_message(message: str) -> None:
    """Print a message on standard error, so that standard output holds results alone."""
    print(to_printable(message), file=sys.stderr)


def print_result(text: str) -> None:
    """Print a result on standard output, without characters that could control a terminal."""
    print(to_printable(text))


def find_run_folder(out: Path | None) -> Path:
    """Return the folder of a run: the given one, or the one with the latest record.

    Raises:
        BenchError: if there is no run.
    """
    if out is not None:
        if not (out / "records").is_dir():
            raise BenchError(
                f"{out} is not the folder of a run: it has no records/; `bench run --out {out}` creates one"
            )
        return out
    folders = sorted(RUNS.glob("*/records"), key=lambda folder: folder.stat().st_mtime)
    if not folders:
        raise BenchError(
            f"there is no run in {RUNS.absolute()}; give --out, or start with `bench run --suite quick`"
        )
    return folders[-1].parent


def load_records(folder: Path) -> list[Record]:
    """Return the records of a run without learning curves; damaged ones are reported and skipped.

    Raises:
        BenchError: if there is no record.
    """
    records = []
    gc.disable()  # records hold no cycles, and searching ten thousand for one takes longer than reading them
    try:
        for record in read_records(folder / "records", curve=False):
            if isinstance(record, Record):
                records.append(record)
            else:
                print_message(f"note: {record}; it is skipped, and `bench run` creates it again")
    finally:
        gc.enable()
    if not records:
        raise BenchError(f"{folder / 'records'} has no record yet")
    return records


def find_results_folder(out: Path | None) -> Path | None:
    """Return the folder of a run, see `find_run_folder`; None if the results are an archive.

    Raises:
        BenchError: if there is no run.
    """
    return None if out is not None and out.is_file() else find_run_folder(out)


def read_results(out: Path | None) -> list[Record]:
    """Return the records of a run's folder, see `find_run_folder`, or of an archive.

    Raises:
        BenchError: if there is no run, no record or no archive.
    """
    return read_archive(out) if out is not None and out.is_file() else load_records(find_run_folder(out))


def read_curves(folder: Path, records: Sequence[Record]) -> Iterator[Record]:
    """Yield the records again with their learning curves, one at a time: not all have to fit in memory."""
    for record in records:
        yield read_record(folder / "records" / f"{record.key}.json")
