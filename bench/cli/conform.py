"""``bench conform``."""

import sys
from typing import Annotated

import typer

from bench.cli import completion


def conform(
    attack: Annotated[
        str,
        typer.Argument(
            metavar="ATTACK",
            help="The attack, written as in suites. It is crafted about twenty times on 40 small images; "
            "small parameters make that quick: 'em(rounds=2, steps=2, surrogate_steps=2)'.",
            autocompletion=lambda incomplete: completion.complete_part("attack", incomplete),
        ),
    ],
) -> None:
    """Run the contract tests on an attack, also on one from your own package, and show what fails.

    Exit code 1 if a test fails.
    """
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from bench.conformance.checks import TOTAL
    from bench.conformance.craft_run import AttackUnderTest
    from bench.conformance.report import render_verdicts, run_checks

    torch.set_num_threads(1)
    tested = AttackUnderTest(attack)
    verdicts = []
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(attack, total=TOTAL)
        for verdict in run_checks(tested):
            verdicts.append(verdict)
            progress.update(bar, advance=1, description=verdict.check)
    print(render_verdicts(tested.choice.label, verdicts))
    if any(verdict.failure for verdict in verdicts):
        sys.exit(1)
