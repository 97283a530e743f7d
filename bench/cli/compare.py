"""``bench compare``: two values of an axis over paired cells."""

import sys
from typing import Annotated

import typer

from bench.cli import completion, options
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_result, read_results


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A value of the axis, such as em.",
            autocompletion=completion.complete_part_of_axis,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another value, such as mtl-ue-em.",
            autocompletion=completion.complete_part_of_axis,
        ),
    ],
    axis: Annotated[
        str,
        typer.Option(
            "--axis",
            metavar="AXIS",
            help="The axis of both values.",
            autocompletion=completion.axis_completer(),
        ),
    ] = "attack",
    out: options.ResultsOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Compare the protection of A and B over pairs of cells that differ in nothing else."""
    from leaderboard.comparison import compare_labels, list_comparison, render_comparison
    from leaderboard.frame import to_frame

    comparison = compare_labels(to_frame(read_results(out)), a, b, axis)
    if json_:
        print_json(list_comparison(comparison))
    elif sys.stdout.isatty():
        from leaderboard.terminal_comparison import print_comparison
        from leaderboard.terminal_table import open_console

        print_comparison(comparison, open_console())
    else:
        print_result(render_comparison(comparison))
