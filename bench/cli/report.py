"""``bench report``: the leaderboard of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli import options
from bench.cli.run_folder import (
    find_run_folder,
    load_records,
    print_result,
    read_results,
    render_run_board,
    render_run_page,
)
from bench.cli.run_outputs import BOARD, BOARD_FILE
from bench.errors import BenchError
from bench.files import write_output
from bench.record import Record
from bench.record_archive import encode_archive


def report(
    out: options.ResultsOption = None,
    format_: Annotated[
        Literal["markdown", "csv", "json", "html", "archive"],
        typer.Option("--format", help="The format of the output."),
    ] = "markdown",
    output: options.OutputOption = None,
) -> None:
    """Print the leaderboard of a run, or its scores as CSV or JSON with one row per cell and task.

    html is a web page: --output names a folder, whose index.html opens from disk. An archive is one file with
    all records, but without their learning curves. report, compare and check read it in place of the run's
    folder.
    """
    if format_ == "html":
        _write_page(out, output)
        return
    if format_ == "archive":
        if output is None:
            raise BenchError("an archive is not text: name its file with --output, such as results.jsonl.gz")
        write_output(output, encode_archive(read_results(out)))
        return
    text = _render_board(out) if format_ == "markdown" else _render_rows(read_results(out), format_)
    if output is None:
        print_result(text)
    else:
        write_output(output, text)


def _write_page(out: Path | None, output: Path | None) -> None:
    from leaderboard.page.build import render_web_page
    from leaderboard.page.folder import write_page
    from leaderboard.summary import rank_records

    if output is None:
        raise BenchError("a page is a folder, not text: name it with --output, such as --output page")
    if out is not None and out.is_file():
        write_page(output, render_web_page(rank_records(read_results(out))))
        return
    folder = find_run_folder(out)
    write_page(output, render_run_page(folder, load_records(folder)))


def _render_board(out: Path | None) -> str:
    if out is not None and out.is_file():
        from leaderboard.board import render_board

        return render_board(read_results(out))
    from leaderboard.board_cache import hash_board_inputs, read_cached_output

    folder = find_run_folder(out)
    records = load_records(folder)
    cached = read_cached_output(folder, hash_board_inputs(folder), BOARD)
    return cached[BOARD_FILE].decode() if cached else render_run_board(folder, records)


def _render_rows(records: Sequence[Record], format_: Literal["csv", "json"]) -> str:
    from leaderboard.frame import to_csv, to_frame, to_json

    return (to_csv if format_ == "csv" else to_json)(to_frame(records))
