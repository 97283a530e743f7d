"""The records as event files for TensorBoard: a folder per suite, in it one per attack and one per cell.

SUITE/                the board as text, its figures as images
SUITE/board/ATTACK/   the line of an attack on the board
SUITE/cells/CELL/     settings (in the tab HPARAMS), curve, scores, protection, cost and noise of a cell
"""

import io
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from bench.engine.tracking.record_values import (
    PROTECTION,
    LogNumber,
    at_step_0,
    protection_numbers,
    record_checksum,
    record_numbers,
    record_params,
    time_span,
)
from bench.engine.tracking.shown_marks import ShownMarks
from bench.engine.tracking.sink import CellCounts, LogResult, SuiteStatus, TaskProtections, TrackedBoard
from bench.files import hash_json
from bench.record import Record

EVENT_FILES = "events.out.tfevents.*"
"""How TensorBoard's writer names its files."""

NAME_BYTES = 200
"""Longest name of a folder; file systems allow 255 bytes."""


class TensorBoardSink:
    """Event files in a folder; what is shown anew replaces its former files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._marks = ShownMarks(folder / ".shown")

    def set_suite_status(self, suite: str, status: SuiteStatus) -> None:
        """Do nothing: TensorBoard shows no status."""

    def prepare_suite(self, suite: str, start: int | None) -> None:
        """Do nothing: every record has its own folder."""

    def log_record(self, record: Record, protections: TaskProtections) -> LogResult:
        """Write the event file of a record, unless the same has been written before."""
        parts = [record_checksum(record), hash_json(dict(protections))]
        shown = self._marks.read(record.suite, record.key)
        if shown == parts:
            return "kept"
        self._marks.write(record.suite, record.key, parts=[])
        self._write_record(record, protections)
        self._marks.write(record.suite, record.key, parts=parts)
        return "replaced" if shown else "added"

    def finish_suite(self, suite: str, cells: CellCounts, board: TrackedBoard) -> None:
        """Write the board of a suite and the line of every attack."""
        end_s = (cells.end or 0) / 1000
        for attack in board.attacks:
            folder = self._suite_folder(suite) / "board" / _folder_name(attack)
            with closing(_new_writer(folder)) as writer:
                _add_numbers(writer, at_step_0(board.attack_numbers(attack)), end_s)
        with closing(_new_writer(self._suite_folder(suite))) as writer:
            _add_numbers(writer, at_step_0(cells.numbers()), end_s)
            _add_files(writer, board.files, end_s)

    def _suite_folder(self, suite: str) -> Path:
        return self._folder / _folder_name(suite)

    def _write_record(self, record: Record, protections: TaskProtections) -> None:
        numbers = protection_numbers(protections)
        end_s = (time_span(record)[1] or 0) / 1000
        folder = (
            self._suite_folder(record.suite) / "cells" / _folder_name(f"{record.label} · {record.key[:8]}")
        )
        with closing(_new_writer(folder)) as writer:
            _add_numbers(writer, record_numbers(record), end_s)
            shown = {PROTECTION: numbers.pop(PROTECTION)} if numbers else {}
            _add_numbers(writer, at_step_0(numbers), end_s)
            rows = "".join(f"    {name} = {value}\n" for name, value in record_params(record).items())
            writer.add_text("settings", rows, 0, end_s)
            if record.error:
                writer.add_text("error", f"    {record.error['type']}: {record.error['message']}", 0, end_s)
            # The table of the tab HPARAMS; its numbers are charts too.
            writer.add_hparams(dict(record.cell), shown, run_name=".")


def _new_writer(folder: Path) -> SummaryWriter:
    for file in folder.glob(EVENT_FILES):
        file.unlink()
    return SummaryWriter(str(folder))


def _add_numbers(writer: SummaryWriter, numbers: Iterable[LogNumber], time_s: float) -> None:
    for name, value, step in numbers:
        writer.add_scalar(name, value, step, time_s)


def _add_files(writer: SummaryWriter, files: Mapping[str, bytes], time_s: float) -> None:
    for path, content in files.items():
        if path.endswith(".md"):
            writer.add_text(path, content.decode(), 0, time_s)
        elif path.endswith(".png"):
            with Image.open(io.BytesIO(content)) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(path, pixels, 0, time_s, dataformats="HWC")


def _folder_name(text: str) -> str:
    """Return a text as the name of a folder: the same one unless a file system could not have it."""
    plain = re.sub(r"[^\w \-.=(),:·+]", "_", text)
    if plain == text and plain.strip(". ") == plain and 0 < len(plain.encode()) <= NAME_BYTES:
        return plain
    short = plain.encode()[: NAME_BYTES - 9].decode(errors="ignore").strip(". ")
    return f"{short}-{hash_json(text)[:8]}"
