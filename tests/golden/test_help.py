"""The help of every command, as a person sees it on 100 columns.

After a wanted change: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/golden/test_help.py``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bench.cli import app

GOLDEN = Path(__file__).parent / "help.txt"
COMMANDS = (
    *(
        "run",
        "plan",
        "status",
        "explain",
        "report",
        "compare",
        "plot",
        "check",
        "list",
        "show",
        "conform",
        "track",
        "scaling",
    ),
    *("data", "data check", "data prepare", "data show"),
)


def helped(*command: str) -> str:
    environment = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*command, "--help"], prog_name="bench", env=environment)
    assert (result.exit_code, result.stderr) == (0, "")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()).strip("\n")


def test_help(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where tests run on a build server, typer takes the output for a terminal.
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)
    pages = [
        "$ bench --help\n" + helped(),
        *(f"$ bench {name} --help\n{helped(*name.split())}" for name in COMMANDS),
    ]
    text = "\n\n".join(pages) + "\n"
    if os.environ.get("MTLUE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_every_command_is_in_it() -> None:
    assert set(COMMANDS) == set(names(get_command(app)))


def names(group: Any, *above: str) -> Iterator[str]:
    """Yield the commands that the help of a group lists, and those of the groups in it."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield " ".join([*above, name])
        if hasattr(command, "commands"):
            yield from names(command, *above, name)
