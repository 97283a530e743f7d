"""The records in W&B: a run per cell, grouped by suite, and a run per suite with the board.

Where they go is said as W&B wants it: ``wandb login``, WANDB_MODE=offline, WANDB_ENTITY, WANDB_PROJECT.
"""

import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from bench.engine.tracking.record_values import (
    protection_numbers,
    record_checksum,
    record_numbers,
    record_settings,
    record_tags,
    truncate,
)
from bench.engine.tracking.shown_marks import ShownMarks
from bench.engine.tracking.sink import CellCounts, LogResult, SuiteStatus, TaskProtections, TrackedBoard
from bench.files import hash_bytes, hash_json
from bench.record import Record

PROJECT = "mtlue-bench"
"""The project, unless WANDB_PROJECT names another."""

NAME_LIMIT = 128
"""Most characters of a name in W&B."""


class WandbSink:
    """A W&B project.

    Args:
        out: the folder of the run; W&B writes to ``wandb/`` in it.

    Raises:
        RuntimeError: if W&B has no API key and would ask for it in the middle of a run.
    """

    def __init__(self, out: Path) -> None:
        is_online = os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.login(prompt=False, verify=False):
            raise RuntimeError(
                "there is no API key; `wandb login` asks for it, WANDB_MODE=offline needs none"
            )
        self._out = out.absolute()
        self._marks = ShownMarks(self._out / "wandb" / ".shown")
        self._opened: dict[str, float] = {}

    def set_suite_status(self, suite: str, status: SuiteStatus) -> None:
        """Do nothing: the run of a suite is made when it has ended."""

    def prepare_suite(self, suite: str, start: int | None) -> None:
        """Do nothing: every record has a run of its own."""

    def log_record(self, record: Record, protections: TaskProtections) -> LogResult:
        """Make the run of a record, or add new protections to it."""
        content, numbers = record_checksum(record), protection_numbers(protections)
        parts = [content, hash_json(numbers)]
        shown = self._marks.read(record.suite, record.key)
        if shown == parts:
            return "kept"
        config = record_settings(record) | record_tags(record) | record.cell
        run = self._start_run(record.suite, "cell", f"{record.key} {content}", record.label, config)
        by_epoch: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for name, value, step in record_numbers(record):
            by_epoch[step][name] = value
        run.summary.update(by_epoch.pop(0, {}) | numbers)
        if shown[:1] != [content]:
            for epoch, values in sorted(by_epoch.items()):
                run.log(values, step=epoch)
        run.finish(exit_code=0 if record.status == "done" else 1)
        self._marks.write(record.suite, record.key, parts=parts)
        return "replaced" if shown else "added"

    def finish_suite(self, suite: str, cells: CellCounts, board: TrackedBoard) -> None:
        """Make the run of a suite, with a table of the attacks, the figures, and all files as an artifact."""
        numbers = board.numbers_by_attack() | cells.numbers()
        hashes = {path: hash_bytes(content) for path, content in board.files.items()}
        parts = [hash_json([numbers, hashes])]
        if self._marks.read(suite) == parts:
            return
        columns = list(dict.fromkeys(name for line in board.attacks.values() for name in line))
        rows = [[attack, *map(line.get, columns)] for attack, line in board.attacks.items()]
        with tempfile.TemporaryDirectory() as folder:
            run = self._start_run(suite, "board", "", suite, {"suite": suite})
            run.summary.update(numbers)
            shown: dict[str, Any] = {"attacks": wandb.Table(["attack", *columns], data=rows)} if rows else {}
            artifact = wandb.Artifact(f"board-{run.id}", "board")
            for path, content in board.files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                artifact.add_file(str(file), path)
                if file.suffix == ".png":
                    shown[path] = wandb.Image(str(file))
            run.log(shown)
            run.log_artifact(artifact)
            run.finish()
        self._marks.write(suite, parts=parts)

    def _start_run(
        self, suite: str, kind: str, content: str, name: str, config: Mapping[str, Any]
    ) -> "wandb.Run":
        # The same content of the same folder is the same run, also if something is added later.
        run_id = hash_json([str(self._out), suite, kind, content])[:32]
        # Offline, the folder of a run has its id and the second in which it was opened.
        time.sleep(max(0.0, self._opened.get(run_id, 0.0) + 1 - time.monotonic()))
        self._opened[run_id] = time.monotonic()
        replaced = sys.exit, sys.excepthook
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=truncate(name, NAME_LIMIT),
            group=truncate(suite, NAME_LIMIT),
            job_type=kind,
            config=dict(config),
            dir=str(self._out),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )
        # W&B replaces both for the time after the run: an exit would look like that of a library.
        sys.exit, sys.excepthook = replaced
        return run
