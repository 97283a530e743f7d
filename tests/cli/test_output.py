"""What commands print for people, on terminals of several widths and in pipes, and for programs."""

import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from typer.main import get_command

from bench import cli
from bench.cli.json_output import print_json
from bench.conformance import scaling
from bench.engine.tracking import listener
from bench.example_images import EXAMPLES
from bench.files import write_atomically
from bench.record import CLEAN, write_record
from bench.table import fill_paragraphs, format_table
from tests.records import make_record, matrix

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = {
    "list": "list",
    "show": "show attack mtl-ue-em",
    "plan": "plan --suite quick --cells --device cpu --out new --no-calibrate",
    "status": "status --out run",
    "explain": "explain em jpeg --out run",
    "check": "check --against reference.json --out run",
    "conform": "conform weighting rlw",
    "track": "track --out run",
    "scaling": "scaling --device cpu",
    "data check": "data check digits(train=64,test=16)",
    "data prepare": "data prepare digits(train=64,test=16)",
    "data show": "data show digits(train=64,test=16) -o page.html",
}
"""Command → how it is called here."""

OTHERS = {"run", "report", "compare", "why", "plot"}
"""Commands that have formats of their own, and another name of one."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(command: str, *options: str, terminal: bool = False) -> str:
    """Return what a command that succeeds prints on standard output."""
    out = Terminal() if terminal else io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(io.StringIO()):
        patch.setattr(sys, "argv", ["bench", *command.split(), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of two cells, and a reference with other numbers."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "run" / "records").mkdir(parents=True)
    for attack, score in (("clean", 0.9), ("em", 0.6)):
        record = make_record({"gender": score}, attack=attack, defense="jpeg")
        write_record(folder / "run" / "records", record)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        printed("check --against reference.json --out run --update")
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(listener, "rebuild_mirror", lambda *_: Counter(added=2, kept=1))
    monkeypatch.setattr(scaling, "measure_scaling", lambda axis, *_: scaling.Scaling(axis, (8, 16), (1, 2)))


def documented() -> dict[str, set[str]]:
    """Return command → keys, as the documentation has them."""
    rows = re.findall(r"^\| `bench ([\w ]+)` \| (.+) \|$", (ROOT / "docs/json.md").read_text(), re.MULTILINE)
    return {command: set(re.findall(r"`(\w+)`", keys)) for command, keys in rows}


def commands(group: Any, *above: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name))


def test_every_command_is_documented_and_tried_here() -> None:
    assert set(commands(get_command(cli.app))) - OTHERS == set(COMMANDS)
    assert set(COMMANDS) <= set(documented())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_one_json_document_with_the_documented_keys(command: str) -> None:
    text = printed(COMMANDS[command], "--json")
    assert text.isascii()
    document = json.loads(text)
    assert set(document) == documented()[command]
    assert text == json.dumps(document, indent=2) + "\n"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("track", "data prepare")])
def test_a_command_fits_the_terminal_and_is_whole_in_a_pipe(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = printed(COMMANDS[command])
    assert "\x1b" not in piped
    for columns in (60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = printed(COMMANDS[command], terminal=True)
        # A path that is longer than a line stays in one piece.
        long = [line for line in text.splitlines() if len(line) > columns and " " in line.strip()]
        assert long == [], f"{columns} columns"
        if command in ("list", "show"):  # nothing is cut off
            words = set(re.findall(r"[^\W_]{4,}", piped)) - {"parameter", "default", "meaning", "source"}
            assert {word for word in words if word not in "".join(text.split())} == set()


def test_an_error_leaves_standard_output_empty(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "explain", "seed", "--out", "run", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "matches 2 items" in err


@dataclass(frozen=True)
class Facts:
    path: Path
    numbers: tuple[float, ...]


def test_json_holds_no_control_characters_and_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {"a": Facts(Path("x\x1b[31m\x9b\u202e"), (1.5, math.nan, math.inf)), "b": {1: {"δ"}, "c": None}}
    )
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {
        "a": {"path": "x\x1b[31m\x9b\u202e", "numbers": [1.5, None, None]},
        "b": {"1": ["δ"], "c": None},
    }


def test_columns_are_narrowed_and_no_word_is_broken_without_need() -> None:
    rows = [("orthogonal-projection", "one two three four five", 1234567), ("jpeg", None, 2)]
    assert format_table(rows, ("name", "what", "number of"), 37, right=(2,)).splitlines() == [
        "name                   what    number",
        "                                   of",
        "---------------------  -----  -------",
        "orthogonal-projection  one    1234567",
        "                       two",
        "                       three",
        "                       four",
        "                       five",
        "jpeg                                2",
    ]
    assert max(map(len, format_table(rows, ("name", "what", "number"), 20).splitlines())) <= 20
    assert format_table([], ("name", "what"), 20) == "name  what\n----  ----"


def test_paragraphs_are_filled_and_lists_keep_their_lines() -> None:
    text = "one two\nthree four\n\n- item one two\n  more\n\nend"
    assert fill_paragraphs(text, None) == text
    assert fill_paragraphs(text, 10) == "one two\nthree four\n\n- item one\ntwo\n  more\n\nend"


def test_a_page_without_example_images(tmp_path: Path) -> None:
    records = matrix({CLEAN: {"none": (0.0,)}, "em": {"none": (0.5,)}})
    for record in records:
        write_record(tmp_path / "run" / "records", record)
    images = np.zeros((1, 3, 8, 8), np.uint8)
    write_atomically(
        tmp_path / "run" / "poisons" / records[-1].poison / EXAMPLES,
        save({"rows": np.arange(1), "clean": images, "released": images + np.uint8(8), "side": np.array(8)}),
    )
    pictures = {}
    for option in ("", "--no-images"):
        page = tmp_path / f"page{option}"
        printed("report --format html", *filter(None, [option]), "--out", f"{tmp_path}/run", "-o", str(page))
        pictures[option] = list(page.rglob("*.png")), page.joinpath("attack-em.html").read_text()
    assert pictures[""][0] or "data:image" in pictures[""][1]
    assert not pictures["--no-images"][0]
    assert "data:image" not in pictures["--no-images"][1]
