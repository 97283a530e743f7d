"""The help of every command, as a person sees it on 100 columns.

After a wanted change: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_help.py``.
"""

import os
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bench.cli import app

GOLDEN = Path(__file__).parent / "help.txt"
COMMANDS = ("run", "plan", "report", "compare", "check", "list", "show", "conform", "track")


def helped(*command: str) -> str:
    environment = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*command, "--help"], prog_name="bench", env=environment)
    assert (result.exit_code, result.stderr) == (0, "")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()).strip("\n")


def test_help(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where tests run on a build server, typer takes the output for a terminal.
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)
    pages = ["$ bench --help\n" + helped(), *(f"$ bench {name} --help\n{helped(name)}" for name in COMMANDS)]
    text = "\n\n".join(pages) + "\n"
    if os.environ.get("MTLUE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_every_command_is_in_it() -> None:
    assert set(COMMANDS) == set(get_command(app).commands)  # type: ignore[attr-defined]
