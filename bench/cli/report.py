"""``bench report``, ``bench compare`` and ``bench check``: what the records of a run say."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli import completion, options
from bench.cli.run_folder import find_run_folder, load_records, render_run_board, write_output


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
        text = render_run_board(folder, records)
    else:
        from leaderboard.frame import to_csv, to_frame, to_json

        text = (to_csv if format_ == "csv" else to_json)(to_frame(records))
    if output is None:
        print(text)
    else:
        write_output(output, text)


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
    out: options.RunFolderOption = None,
) -> None:
    """Compare the protection of A and B over pairs of cells that differ in nothing else."""
    from leaderboard.comparison import compare_labels, render_comparison
    from leaderboard.frame import to_frame

    print(render_comparison(compare_labels(to_frame(load_records(find_run_folder(out))), a, b, axis)))


def check(
    against: Annotated[Path, typer.Option("--against", metavar="FILE", help="The reference file.")],
    out: options.RunFolderOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the reference file from this run instead.")
    ] = False,
) -> None:
    """Compare a run with a reference file: exit code 1 if scores, or costs by far, got worse."""
    from leaderboard import reference

    records = load_records(find_run_folder(out))
    if update:
        reference.write_reference(against, reference.summarize_records(records))
        print(f"wrote {against} from {len(records)} records")
        return
    changes = reference.check_against_reference(reference.read_reference(against), records)
    print(reference.render_changes(changes))
    if any(change.fails for change in changes):
        sys.exit(1)
