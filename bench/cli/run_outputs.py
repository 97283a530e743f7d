"""What the folder of a run shows besides its records: each output draws its files from them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.run_folder import load_records, print_message, read_curves, render_run_board, render_run_page
from bench.errors import BenchError
from bench.files import FolderInPlaceError
from bench.record import CLEAN, Record
from bench.text import to_one_line

if TYPE_CHECKING:
    from bench.engine.tracking.listener import Tracker
    from bench.engine.tracking.sink import TrackedBoard

Files = dict[str, bytes]
"""Path in the folder of a run → content."""

BOARD, BOARD_FILE = "board", "leaderboard.md"
"""The output that no run goes without, and its file."""

ATTACK_NUMBERS = ("protection", "low", "high", "undefended", "craft_s")
"""Columns of the ranking that trackers show."""


def draw_board_files(folder: Path, records: Sequence[Record]) -> Files:
    """Return the board."""
    return {BOARD_FILE: render_run_board(folder, records).encode()}


def draw_figure_files(folder: Path, records: Sequence[Record]) -> Files:
    """Return the figures as PNG."""
    from leaderboard.figures import draw_figures

    figures = draw_figures(read_curves(folder, records))
    return {f"figures/{name}": content for name, content in figures.items()}


def draw_page_files(folder: Path, records: Sequence[Record]) -> Files:
    """Return the web page."""
    return {f"page/{name}": content for name, content in render_run_page(folder, records).items()}


OUTPUTS: Mapping[str, Callable[[Path, Sequence[Record]], Files]] = {
    BOARD: draw_board_files,
    "figures": draw_figure_files,
    "page": draw_page_files,
}
"""Name → function that draws the files from the records (without curves) of a run's folder."""


def update_outputs(folder: Path, trackers: "Sequence[Tracker]") -> str:
    """Draw and write the outputs that are out of date, give all of them to the trackers, return the board."""
    from bench.engine.monitoring.console import show_activity
    from leaderboard.board_cache import hash_board_inputs, read_cached_output, write_cached_output

    inputs = hash_board_inputs(folder)
    outputs = {name: read_cached_output(folder, inputs, name) for name in OUTPUTS}
    outdated = [name for name, files in outputs.items() if files is None]
    if outdated:
        records = load_records(folder)
        for name in outdated:
            with show_activity(f"drawing the {name}"):
                outputs[name] = files = draw_output(name, folder, records)
            try:
                if files is not None:
                    write_cached_output(folder, inputs, name, files)
            except BenchError as error:
                if name == BOARD and not isinstance(error, FolderInPlaceError):
                    raise
                print_message(f"note: {error}")
        make_board = cache(lambda: collect_board(records, outputs))
        for tracker in trackers:
            tracker.finish_suite(records, make_board)
    return (outputs[BOARD] or {})[BOARD_FILE].decode()


def draw_output(name: str, folder: Path, records: Sequence[Record]) -> Files | None:
    """Return the files of an output; for any but the board, None and a message if it cannot be drawn."""
    if name == BOARD:
        return OUTPUTS[name](folder, records)
    try:
        return OUTPUTS[name](folder, records)
    except Exception as error:  # good results must not look like a failed run because of a picture of them
        reason = error if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        print_message(f"note: {name} cannot be drawn ({to_one_line(str(reason))}); the results are complete")
        return None


def read_outputs(folder: Path, records: Sequence[Record]) -> dict[str, Files | None]:
    """Return the outputs of a run's folder, drawn again where they are out of date. Nothing is written."""
    from leaderboard.board_cache import hash_board_inputs, read_cached_output

    inputs = hash_board_inputs(folder)
    outputs = {name: read_cached_output(folder, inputs, name) for name in OUTPUTS}
    return {
        name: draw_output(name, folder, records) if files is None else files
        for name, files in outputs.items()
    }


def collect_board(records: Sequence[Record], outputs: Mapping[str, Files | None]) -> "TrackedBoard":
    """Return what a tracker shows of a whole run: its outputs, the rows of its board, and protections."""
    from bench.engine.tracking.sink import TrackedBoard
    from leaderboard.cell_protection import CellProtections
    from leaderboard.frame import to_csv
    from leaderboard.summary import rank_records, summarize_board

    board = rank_records(records)
    files: Files = {"leaderboard.csv": to_csv(board.all_budgets).encode()}
    for output in outputs.values():
        files |= output or {}
    attacks = {
        row["attack"]: {name: row[name] for name in ATTACK_NUMBERS if row.get(name) is not None}
        for row in summarize_board(board)["ranking"]
        if row["attack"] != CLEAN
    }
    return TrackedBoard(files, attacks, CellProtections(board.selected.done).by_cell())
