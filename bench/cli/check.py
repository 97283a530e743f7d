"""``bench check``: a run against a reference file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run_folder import print_result, read_results
from bench.files import write_output


def check(
    against: Annotated[Path, typer.Option("--against", metavar="FILE", help="The reference file.")],
    out: options.ResultsOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the reference file from this run instead.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Also write the result to this file, as JUnit XML."),
    ] = None,
) -> None:
    """Compare a run with a reference file.

    The exit code is 1 if a number differs by more than another machine or seed explains, or if a cost rose.
    """
    from leaderboard import reference, regression, regression_report

    records = read_results(out)
    if update:
        reference.write_reference(against, reference.summarize_records(records))
        print_result(f"wrote {against} from {len(records)} records")
        return
    expected = reference.read_reference(against)
    changes = regression.check_against_reference(expected, records)
    if junit is not None:
        write_output(junit, regression_report.render_junit(expected["suite"], changes))
    print_result(regression_report.render_changes(changes))
    if any(change.fails for change in changes):
        sys.exit(1)
