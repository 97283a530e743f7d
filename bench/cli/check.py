"""``bench check``: a run against a reference file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_result, read_results
from bench.files import write_output
from bench.table import terminal_width


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
    json_: options.JsonOption = False,
) -> None:
    """Compare a run with a reference file.

    The exit code is 1 if a number differs by more than another machine or seed explains, or if a cost rose.
    """
    from leaderboard import reference, regression, regression_report

    records = read_results(out)
    if update:
        summary = reference.summarize_records(records)
        reference.write_reference(against, summary)
        if json_:
            print_json(
                {
                    "suite": summary["suite"],
                    "reference": against,
                    "written": True,
                    "passed": True,
                    "changes": [],
                }
            )
        else:
            print_result(f"wrote {against} from {len(records)} records")
        return
    expected = reference.read_reference(against)
    changes = regression.check_against_reference(expected, records)
    if junit is not None:
        write_output(junit, regression_report.render_junit(expected["suite"], changes))
    passed = not any(change.fails for change in changes)
    if json_:
        suite = expected["suite"]
        print_json(
            {"suite": suite, "reference": against, "written": False, "passed": passed, "changes": changes}
        )
    else:
        print_result(regression_report.render_changes(changes, terminal_width()))
    if not passed:
        sys.exit(1)
