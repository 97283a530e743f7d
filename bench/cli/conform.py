"""``bench conform``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.catalog.choice import Choice
from bench.catalog.parts import catalog_axes, catalog_entries
from bench.cli import completion
from bench.cli.json_output import print_json
from bench.cli.options import DataRootOption, JsonOption
from bench.cli.run_folder import print_result
from bench.errors import unknown_name_error
from bench.table import terminal_width


def conform(
    axis: Annotated[
        str,
        typer.Argument(
            help="dataset, attack, backbone, weighting, defense or regime. The name alone is enough if the "
            "catalog has it.",
            metavar="AXIS",
            autocompletion=completion.complete_axis_or_part,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            help="The part, written as in suites: em, or with values 'em(rounds=2, steps=2)'. A slow part "
            "has quick parameters for this, unless you give others.",
            metavar="NAME",
            show_default=False,
            autocompletion=completion.complete_part_of_axis,
        ),
    ] = None,
    data_root: DataRootOption = None,
    json_: JsonOption = False,
) -> None:
    """Run the contract tests on a part, also on one from your own package, and show what fails.

    Exit code 1 if a test fails.
    """
    if name is None:
        axis, name = find_axis(axis), axis
    elif axis not in catalog_axes():
        raise unknown_name_error("axis", axis, catalog_axes())
    if not part_conforms(axis, name, data_root, json_):
        sys.exit(1)


def find_axis(name: str) -> str:
    """Return the axis that has a part of this name; attack if none has."""
    choice = Choice.parse(name)
    first = choice.parts[0].name if choice.parts else choice.name
    axes = ("attack", *catalog_axes())
    return next((axis for axis in axes if first in catalog_entries(axis)), "attack")


def part_conforms(axis: str, name: str, data_root: Path | None, as_json: bool = False) -> bool:
    """Run the checks, print the verdicts, and return whether the part passes."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from bench.conformance.contracts import CONTRACTS, put_under_test
    from bench.conformance.report import render_verdicts, run_checks

    torch.set_num_threads(1)
    tested, contract = put_under_test(axis, name, data_root), CONTRACTS[axis]
    verdicts = []
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(name, total=contract.verdict_count)
        for verdict in run_checks(tested, contract.checks):
            verdicts.append(verdict)
            progress.update(bar, advance=1, description=verdict.check)
    passed = not any(verdict.failure for verdict in verdicts)
    if as_json:
        print_json({"axis": axis, "part": tested.choice.label, "passed": passed, "verdicts": verdicts})
    else:
        print_result(render_verdicts(tested, verdicts, contract.case_name, terminal_width()))
    return passed
