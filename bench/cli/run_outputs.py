"""What the folder of a run shows besides its records: each output draws its files from them."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.run_folder import load_records, print_message, read_curves
from bench.errors import BenchError
from bench.files import FolderInPlaceError
from bench.record import CLEAN, Record
from bench.run_summary import read_left_out
from bench.text import to_one_line

if TYPE_CHECKING:
    from bench.engine.tracking.listener import Tracker
    from bench.engine.tracking.sink import TrackedBoard
    from leaderboard.summary import RankedBoard

Files = dict[str, bytes]
"""Path in the folder of a run → content."""

BOARD = "board"
"""The output that no run goes without."""

BOARD_FILE, SUMMARY_FILE = "leaderboard.md", "leaderboard.json"
"""The files of the board: all of it, and its rankings."""

ATTACK_NUMBERS = {
    "protection": "protection",
    "low": "protection_low",
    "high": "protection_high",
    "undefended": "protection_undefended",
    "craft_s": "seconds_to_craft",
}
"""Column of the ranking → name under which trackers show it; they sort by these names."""


class RunResults:
    """The results of a run, ranked once for all outputs.

    Args:
        folder: of the run.
        records: those in it, without learning curves.
    """

    def __init__(self, folder: Path, records: Sequence[Record]) -> None:
        self.folder = folder
        self.records = records

    @cached_property
    def board(self) -> "RankedBoard":
        """The ranked records."""
        from leaderboard.summary import rank_records

        return rank_records(self.records, read_left_out(self.folder))


def draw_board_files(results: RunResults) -> Files:
    """Return the board and its summary."""
    return encode_board(results.board)


def encode_board(board: "RankedBoard") -> Files:
    """Return a board and its summary as files."""
    from leaderboard.board import render_ranked_board
    from leaderboard.summary import summarize_board

    summary = json.dumps(summarize_board(board), indent=2, allow_nan=False) + "\n"
    return {BOARD_FILE: render_ranked_board(board).encode(), SUMMARY_FILE: summary.encode()}


def draw_figure_files(results: RunResults) -> Files:
    """Return the figures as PNG."""
    from leaderboard.figures import draw_figures

    curves = read_curves(results.folder, results.records)
    figures = draw_figures(curves, results.folder, results.board)
    return {f"figures/{name}": content for name, content in figures.items()}


def draw_page_files(results: RunResults) -> Files:
    """Return the web page."""
    return {f"page/{name}": content for name, content in render_run_page(results).items()}


def render_run_page(results: RunResults, with_images: bool = True) -> dict[str, bytes]:
    """Return the web page of a run, with or without example images: path in the page's folder → content."""
    from bench.example_images import read_example_images
    from leaderboard.page.build import render_web_page

    curves = read_curves(results.folder, results.records)
    read_examples = partial(read_example_images, results.folder) if with_images else lambda _: None
    return render_web_page(results.board, curves, read_examples)


OUTPUTS: Mapping[str, Callable[[RunResults], Files]] = {
    BOARD: draw_board_files,
    "figures": draw_figure_files,
    "page": draw_page_files,
}
"""Name → function that draws the files from the results of a run."""


def update_outputs(folder: Path, trackers: "Sequence[Tracker]") -> Files:
    """Draw and write the outputs that are out of date, and give all of them to the trackers.

    Returns:
        The files of the board.
    """
    from bench.engine.monitoring.console import show_activity
    from leaderboard.board_cache import hash_board_inputs, read_cached_output, write_cached_output

    inputs = hash_board_inputs(folder)
    outputs = {name: read_cached_output(folder, inputs, name) for name in OUTPUTS}
    outdated = [name for name, files in outputs.items() if files is None]
    if outdated:
        results = RunResults(folder, load_records(folder))
        for name in outdated:
            with show_activity(f"drawing the {name}"):
                outputs[name] = files = draw_output(name, results)
            try:
                if files is not None:
                    write_cached_output(folder, inputs, name, files)
            except BenchError as error:
                if name == BOARD and not isinstance(error, FolderInPlaceError):
                    raise
                print_message(f"note: {error}")
        make_board = cache(lambda: collect_board(results, outputs))
        for tracker in trackers:
            tracker.finish_suite(results.records, make_board)
    return outputs[BOARD] or {}


def draw_output(name: str, results: RunResults) -> Files | None:
    """Return the files of an output; for any but the board, None and a message if it cannot be drawn."""
    if name == BOARD:
        return OUTPUTS[name](results)
    try:
        return OUTPUTS[name](results)
    except Exception as error:  # good results must not look like a failed run because of a picture of them
        reason = error if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        print_message(f"note: {name} cannot be drawn ({to_one_line(str(reason))}); the results are complete")
        return None


def read_outputs(results: RunResults) -> dict[str, Files | None]:
    """Return the outputs of a run's folder, drawn again where they are out of date. Nothing is written."""
    from leaderboard.board_cache import hash_board_inputs, read_cached_output

    inputs = hash_board_inputs(results.folder)
    outputs = {name: read_cached_output(results.folder, inputs, name) for name in OUTPUTS}
    return {name: draw_output(name, results) if files is None else files for name, files in outputs.items()}


def collect_board(results: RunResults, outputs: Mapping[str, Files | None]) -> "TrackedBoard":
    """Return what a tracker shows of a whole run: its outputs, the rows of its board, and protections."""
    from bench.engine.tracking.sink import TrackedBoard
    from leaderboard.cell_protection import CellProtections
    from leaderboard.frame import to_csv
    from leaderboard.scores import TRACKS
    from leaderboard.summary import summarize_board

    board = results.board
    files: Files = {"leaderboard.csv": to_csv(board.all_budgets).encode()}
    for output in outputs.values():
        files |= output or {}
    ranking = [row for row in summarize_board(board)["ranking"] if row["attack"] != CLEAN]
    attacks = {
        row["attack"]: {
            name: row[column] for column, name in ATTACK_NUMBERS.items() if row.get(column) is not None
        }
        for row in ranking
    }
    tracks = {row["attack"]: row["track"] for row in ranking if row["track"] != TRACKS[0]}
    return TrackedBoard(files, attacks, tracks, CellProtections(board.selected.done).by_cell())
