"""``bench compare``: two values of an axis over paired cells."""

from typing import Annotated

import typer

from bench.cli import completion, options
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
) -> None:
    """Compare the protection of A and B over pairs of cells that differ in nothing else."""
    from leaderboard.comparison import compare_labels, render_comparison
    from leaderboard.frame import to_frame

    print_result(render_comparison(compare_labels(to_frame(read_results(out)), a, b, axis)))
