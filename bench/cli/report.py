"""``bench report``: the leaderboard of a run."""

import io
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli import options
from bench.cli.board_views import find_views, print_table, read_board_files
from bench.cli.run_folder import find_results_folder, load_records, print_result, read_results
from bench.cli.run_outputs import BOARD_FILE, SUMMARY_FILE, RunResults, render_run_page
from bench.errors import BenchError
from bench.files import write_output
from bench.record_archive import encode_archive

Format = Literal["table", "markdown", "csv", "json", "latex", "html", "archive"]


def report(
    out: options.ResultsOption = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="The format of the output.",
            show_default="table on a terminal, else markdown",
        ),
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="In CSV and JSON: a row per cell and task, not per attack.")
    ] = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="In HTML: no example images of the dataset.")
    ] = False,
    json_: options.JsonOption = False,
    output: options.OutputOption = None,
) -> None:
    """Print the leaderboard of a run.

    On a terminal, that is the ranking as a table; table does the same anywhere. markdown is the full board.
    csv, json and latex are the ranking. html is a web page: --output names a folder, whose index.html opens
    from disk. archive is one file with all records, but without their learning curves: report, compare and
    check read it in place of the run's folder.
    """
    if json_:
        format_ = "json"
    if rows and format_ not in ("csv", "json"):
        raise BenchError("--rows needs --format csv or --format json")
    if no_images and format_ != "html":
        raise BenchError("--no-images needs --format html")
    if format_ == "archive":
        if output is None:
            raise BenchError("an archive is not text: name its file with --output, such as results.jsonl.gz")
        write_output(output, encode_archive(read_results(out)))
    elif format_ == "html":
        _write_page(out, output, with_images=not no_images)
    elif format_ is None and output is None and sys.stdout.isatty():
        print_table(read_board_files(out), find_views(out))
    else:
        text = _render_rows(out, format_) if rows else _render_board(out, format_ or "markdown")
        if output is None:
            print_result(text.removesuffix("\n"))
        else:
            write_output(output, text)


def _write_page(out: Path | None, output: Path | None, with_images: bool) -> None:
    from leaderboard.page.build import render_web_page
    from leaderboard.page.folder import write_page
    from leaderboard.summary import rank_records

    if output is None:
        raise BenchError("a page is a folder, not text: name it with --output, such as --output page")
    folder = find_results_folder(out)
    if folder is None:
        write_page(output, render_web_page(rank_records(read_results(out))))
        return
    write_page(output, render_run_page(RunResults(folder, load_records(folder)), with_images))


def _render_board(out: Path | None, format_: Format) -> str:
    board = read_board_files(out)
    if format_ == "markdown":
        return board[BOARD_FILE].decode()
    if format_ == "json":
        return board[SUMMARY_FILE].decode()
    if format_ == "table":
        print_table(board, find_views(out), text := io.StringIO())
        return text.getvalue()
    from leaderboard.ranking_export import ranking_to_csv, ranking_to_latex

    summary = json.loads(board[SUMMARY_FILE])
    return ranking_to_csv(summary) if format_ == "csv" else ranking_to_latex(summary)


def _render_rows(out: Path | None, format_: Format | None) -> str:
    from leaderboard.frame import to_csv, to_frame, to_json

    return (to_csv if format_ == "csv" else to_json)(to_frame(read_results(out)))
