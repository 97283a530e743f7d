"""``bench report``: the leaderboard of a run."""

from typing import Annotated, Literal

import typer

from bench.cli import options
from bench.cli.run_folder import find_run_folder, load_records, print_result, render_run_board
from bench.files import write_output


def report(
    out: options.RunFolderOption = None,
    format_: Annotated[
        Literal["markdown", "csv", "json"], typer.Option("--format", help="The format of the output.")
    ] = "markdown",
    output: options.OutputOption = None,
) -> None:
    """Print the leaderboard of a run, or its scores as CSV or JSON with one row per cell and task."""
    folder = find_run_folder(out)
    records = load_records(folder)
    if format_ == "markdown":
        from leaderboard.board_cache import hash_board_inputs, read_cached_board

        cached = read_cached_board(folder, hash_board_inputs(folder))
        text = cached or render_run_board(folder, records)
    else:
        from leaderboard.frame import to_csv, to_frame, to_json

        text = (to_csv if format_ == "csv" else to_json)(to_frame(records))
    if output is None:
        print_result(text)
    else:
        write_output(output, text)
