"""The board of a run or an archive, and what shows more of it."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from bench.cli.run_folder import find_results_folder, load_records, read_results
from bench.cli.run_outputs import (
    BOARD,
    BOARD_FILE,
    SUMMARY_FILE,
    Files,
    RunResults,
    draw_board_files,
    encode_board,
)


def read_board_files(out: Path | None) -> Files:
    """Return the board of a run's folder, see `find_run_folder`, or of an archive; drawn where out of date.

    Raises:
        BenchError: if there is no run, no record or no archive.
    """
    from leaderboard.board_cache import hash_board_inputs, read_cached_output

    folder = find_results_folder(out)
    if folder is None:
        from leaderboard.summary import rank_records

        return encode_board(rank_records(read_results(out)))
    records = load_records(folder)  # damaged ones are told, whether the board is drawn or not
    cached = read_cached_output(folder, hash_board_inputs(folder), BOARD)
    return draw_board_files(RunResults(folder, records)) if cached is None else cached


def find_views(out: Path | None) -> dict[str, str]:
    """Return what shows more of a run than a table on a terminal does, and where it is."""
    folder = find_results_folder(out)
    board = f"bench report --out {shlex.quote(str(folder or out))} --format markdown"
    if folder is None:
        return {"full board": board}
    paths = {"full board": folder / BOARD_FILE, "page": folder / "page" / "index.html"}
    return {"full board": board} | {name: str(path) for name, path in paths.items() if path.is_file()}


def print_table(board: Files, views: Mapping[str, str], file: TextIO | None = None) -> None:
    """Print the rankings of a board as tables that fit the terminal, and where there is more.

    Args:
        board: its files.
        views: from `find_views`.
        file: where to print; standard output by default.
    """
    from leaderboard.terminal_board import print_board
    from leaderboard.terminal_table import open_console

    print_board(json.loads(board[SUMMARY_FILE]), open_console(file), views)
