"""``run.json`` of a run's folder: which suite ran last, and what it left out. Standard library only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.files import require_file, write_atomically

_SUMMARY = "run.json"


def write_run_summary(folder: Path, suite: str, left_out: Sequence[str]) -> None:
    """Write to ``folder/run.json`` which suite ran last and what it left out, for the report."""
    content = {"suite": suite, "left_out": list(left_out)}
    write_atomically(folder / _SUMMARY, json.dumps(content, indent=1) + "\n")


def has_run_summary(folder: Path) -> bool:
    """Return whether a folder has a valid ``run.json``."""
    return bool(_read_run_summary(folder))


def read_left_out(folder: Path) -> list[str]:
    """Return what the last run left out, one sentence each; nothing if ``run.json`` is missing or damaged."""
    return [str(sentence) for sentence in _read_run_summary(folder).get("left_out", ())]


def _read_run_summary(folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``; nothing if it is missing, damaged or of another program."""
    try:
        content = json.loads(require_file(folder / _SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_summary = isinstance(content, dict) and content.keys() == {"suite", "left_out"}
    return content if is_summary and isinstance(content["left_out"], list) else {}
