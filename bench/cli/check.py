"""``bench check``: a run against a reference file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run_folder import print_result, read_results


def check(
    against: Annotated[Path, typer.Option("--against", metavar="FILE", help="The reference file.")],
    out: options.ResultsOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the reference file from this run instead.")
    ] = False,
) -> None:
    """Compare a run with a reference file: exit code 1 if scores, or costs by far, got worse."""
    from leaderboard import reference

    records = read_results(out)
    if update:
        reference.write_reference(against, reference.summarize_records(records))
        print_result(f"wrote {against} from {len(records)} records")
        return
    changes = reference.check_against_reference(reference.read_reference(against), records)
    print_result(reference.render_changes(changes))
    if any(change.fails for change in changes):
        sys.exit(1)
