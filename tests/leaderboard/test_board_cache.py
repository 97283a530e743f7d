"""A board is drawn again when anything it is made from has changed, and only then."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.files import hash_bytes
from bench.run_summary import write_run_summary
from leaderboard import board_cache
from leaderboard.board_cache import SEAL, hash_board_inputs, read_cached_output, write_cached_output

TEXT = "# Leaderboard\n\nδ\n"
BOARD = "leaderboard.md"
FILES = {BOARD: TEXT.encode()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with two records, a note, and its board."""
    (tmp_path / "records").mkdir()
    for name in ("a", "b"):
        (tmp_path / "records" / f"{name}.json").write_text(name)
    write_run_summary(tmp_path, "tiny", [])
    write_cached_output(tmp_path, hash_board_inputs(tmp_path), "board", FILES)
    return tmp_path


def test_what_has_not_changed_is_read(folder: Path) -> None:
    assert read_board(folder) == FILES
    write_run_summary(folder, "tiny", [])  # as every run does, with the same words
    assert read_board(folder) == FILES


def read_board(folder: Path) -> dict[str, bytes] | None:
    return read_cached_output(folder, hash_board_inputs(folder), "board")


def replace_in_place(path: Path) -> None:
    """Write other bytes of the same number, as late as those before."""
    before = path.stat()
    aside = path.with_name("aside")
    aside.write_text("c")
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    aside.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a record more": lambda folder: (folder / "records" / "c.json").write_text("c"),
    "a record less": lambda folder: (folder / "records" / "a.json").unlink(),
    "a record replaced": lambda folder: replace_in_place(folder / "records" / "a.json"),
    "another note": lambda folder: write_run_summary(folder, "tiny", ["something was left out"]),
    "another board": lambda folder: (folder / BOARD).write_text(TEXT.replace("L", "M")),
    "a board cut off": lambda folder: (folder / BOARD).write_bytes(TEXT.encode()[:-3]),
    "no board": lambda folder: (folder / BOARD).unlink(),
    "no seal": lambda folder: (folder / SEAL).unlink(),
    "a damaged seal": lambda folder: (folder / SEAL).write_bytes(b"\xff{"),
    "a deep seal": lambda folder: (folder / SEAL).write_text("[" * 5000),
    "a seal of an earlier version": lambda folder: (folder / SEAL).write_text(
        '{"source": "a", "board": "b"}'
    ),
    "a seal of other values": lambda folder: (folder / SEAL).write_text(
        '{"board": {"source": 1, "files": [2]}}'
    ),
    "a foreign seal": lambda folder: (folder / SEAL).write_text("[]"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_drawn_again(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert read_board(folder) is None


@pytest.mark.parametrize("changed", ["published.toml", "frame.py", "sections/ranking.py"])
def test_other_code_or_published_figures_draw_again(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    code = tmp_path_factory.mktemp("code")
    monkeypatch.setattr(board_cache, "__file__", str(code / "board_cache.py"))
    (code / changed).parent.mkdir(exist_ok=True)
    (code / changed).write_text("figure = 1")
    write_cached_output(folder, hash_board_inputs(folder), "board", FILES)
    assert read_board(folder) == FILES
    (code / changed).write_text("figure = 2")
    assert read_board(folder) is None


def test_other_code_draws_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_cache, "__file__", str(tmp_path / "board_cache.py"))
    assert read_board(folder) is None


PAGE = {"page/index.html": b"index", "page/em.html": b"em", "page/tap.html": b"tap"}


def test_an_output_replaces_its_former_files_and_no_others(folder: Path) -> None:
    inputs = hash_board_inputs(folder)
    write_cached_output(folder, inputs, "page", PAGE)
    assert read_cached_output(folder, inputs, "page") == PAGE
    (folder / "page" / "notes.txt").write_text("somebody's")
    (folder / "page" / "tap.html").write_text("somebody's")
    index = {"page/index.html": b"other"}
    write_cached_output(folder, inputs, "page", index)
    assert read_cached_output(folder, inputs, "page") == index
    assert sorted(path.name for path in (folder / "page").iterdir()) == [
        "index.html",
        "notes.txt",
        "tap.html",
    ]
    assert read_board(folder) == FILES


def test_an_output_without_files_is_not_drawn_again(folder: Path) -> None:
    inputs = hash_board_inputs(folder)
    assert read_cached_output(folder, inputs, "figures") is None
    write_cached_output(folder, inputs, "figures", {})
    assert read_cached_output(folder, inputs, "figures") == {}


def test_a_seal_cannot_remove_files_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "file"
    other.write_bytes(b"mine")
    for name in (str(other), os.path.relpath(other, folder)):
        seal = {"page": {"source": "", "files": {name: hash_bytes(b"mine")}}}
        (folder / SEAL).write_text(json.dumps(seal))
        write_cached_output(folder, "", "page", {})
        assert other.exists()
