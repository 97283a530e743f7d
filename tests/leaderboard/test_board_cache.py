"""A board is drawn again when anything it is made from has changed, and only then."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.run_summary import write_run_summary
from leaderboard import board_cache
from leaderboard.board_cache import BOARD, SEAL, hash_board_inputs, read_cached_board, write_cached_board

TEXT = "# Leaderboard\n\nδ\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with two records, a note, and its board."""
    (tmp_path / "records").mkdir()
    for name in ("a", "b"):
        (tmp_path / "records" / f"{name}.json").write_text(name)
    write_run_summary(tmp_path, "tiny", [])
    write_cached_board(tmp_path, hash_board_inputs(tmp_path), TEXT)
    return tmp_path


def test_what_has_not_changed_is_read(folder: Path) -> None:
    assert read_cached_board(folder, hash_board_inputs(folder)) == TEXT
    write_run_summary(folder, "tiny", [])  # as every run does, with the same words
    assert read_cached_board(folder, hash_board_inputs(folder)) == TEXT


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
    "a foreign seal": lambda folder: (folder / SEAL).write_text("[]"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_drawn_again(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert read_cached_board(folder, hash_board_inputs(folder)) is None


@pytest.mark.parametrize("changed", ["published.toml", "frame.py", "sections/ranking.py"])
def test_other_code_or_published_figures_draw_again(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    code = tmp_path_factory.mktemp("code")
    monkeypatch.setattr(board_cache, "__file__", str(code / "board_cache.py"))
    (code / changed).parent.mkdir(exist_ok=True)
    (code / changed).write_text("figure = 1")
    write_cached_board(folder, hash_board_inputs(folder), TEXT)
    assert read_cached_board(folder, hash_board_inputs(folder)) == TEXT
    (code / changed).write_text("figure = 2")
    assert read_cached_board(folder, hash_board_inputs(folder)) is None


def test_other_code_draws_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_cache, "__file__", str(tmp_path / "board_cache.py"))
    assert read_cached_board(folder, hash_board_inputs(folder)) is None
