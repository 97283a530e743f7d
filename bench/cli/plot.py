"""``bench plot``: one figure of the leaderboard of a run, as a file."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import completion, options
from bench.cli.run_folder import find_results_folder, print_message, read_curves, read_results
from bench.errors import BenchError
from bench.files import write_output
from leaderboard.figures import FORMATS, KINDS, WIDTH, find_figure_kind, render_figure


def complete_kind(incomplete: str) -> list[tuple[str, str]]:
    """Return the kinds of figures that start with the incomplete word, with what they show."""
    return [(name, kind.shows) for name, kind in KINDS.items() if name.startswith(incomplete)]


def plot(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"The file to write; its ending, {', '.join(FORMATS)}, is the format.",
        ),
    ],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="; ".join(f"{name}: {kind.shows}" for name, kind in KINDS.items()) + ".",
            autocompletion=complete_kind,
        ),
    ] = "ranking",
    out: options.ResultsOption = None,
    axis: Annotated[
        str,
        typer.Option(
            "--axis",
            metavar="AXIS",
            help="The axis of a heatmap.",
            show_default="defense, or the first that varies",
            autocompletion=completion.axis_completer(),
        ),
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="AXIS=a,b",
            help="Draw only these values of an axis. Can be repeated.",
            autocompletion=completion.complete_axis_values,
        ),
    ] = None,
    width: Annotated[
        float,
        typer.Option(
            "--width",
            metavar="INCHES",
            min=3,
            max=20,
            help="The width of the figure: 3.5 is one column of most papers, 7 is two.",
        ),
    ] = WIDTH,
) -> None:
    """Draw one figure of a run. Texts have 7 points at the width that is asked for."""
    format_ = output.suffix.removeprefix(".").lower()
    if format_ not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise BenchError(f"cannot tell the format of {str(output)!r} by its ending; use one of {endings}")
    needed, folder = find_figure_kind(kind).run_only, find_results_folder(out)
    if needed and folder is None:
        raise BenchError(f"{out} is an archive, which has no {needed}; give the folder of the run with --out")
    from leaderboard.restricted_records import restrict_records

    kept = restrict_records(read_results(out), only or ())
    records = read_curves(folder, kept) if kind == "curves" and folder is not None else kept
    write_output(output, render_figure(kind, records, run=folder, format_=format_, width=width, axis=axis))
    print_message(f"{output} has the figure")
