"""``bench scaling``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_message, print_result
from bench.cli.run_setup import resolve_device
from bench.table import format_table, terminal_width

if TYPE_CHECKING:
    from bench.conformance.scaling import Scaling


def scaling(
    doublings: Annotated[
        int,
        typer.Option("--doublings", metavar="N", min=1, help="How often every size is doubled."),
    ] = 3,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="How often each size is timed.")
    ] = 3,
    device: options.DeviceOption = "auto",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="The picture to draw, such as scaling.png.")
    ] = None,
    json_: options.JsonOption = False,
) -> None:
    """Measure how time grows with images, tasks, pixels and checkpoints, and fit a power law to each.

    The data are random and the network is `small`, on one CPU thread or one GPU. An exponent of 1 is linear
    growth.
    """
    import torch

    from bench.conformance.scaling import AXES_OF_COST, measure_scaling

    torch.set_num_threads(1)
    chosen = torch.device(resolve_device(device, on_cluster=False))
    measured = []
    for name, axis in AXES_OF_COST.items():
        print_message(f"timing {axis.what} by {name}")
        measured.append(measure_scaling(name, axis.sizes(doublings), rounds, chosen))
    facts = [describe_scaling(each, AXES_OF_COST[each.axis].what) for each in measured]
    if json_:
        print_json({"device": str(chosen), "sizes": facts})
    else:
        headers = ("size", "cost", "seconds by size", "exponent (95 %)")
        print_result(format_table(list(map(scaling_row, facts)), headers, terminal_width()))
    if plot is not None:
        draw_scalings(measured, plot)


def describe_scaling(measured: "Scaling", what: str) -> dict[str, Any]:
    """Return the times of one axis and the fitted exponent, as JSON has them."""
    exponent, low, high = measured.exponent()
    times = dict(zip(measured.sizes, measured.seconds, strict=True))
    names = {"size": measured.axis, "cost": what}
    return {**names, "seconds": times, "exponent": exponent, "low": low, "high": high}


def scaling_row(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of the table for people."""
    times = ", ".join(f"{size}: {seconds:.3g}" for size, seconds in facts["seconds"].items())
    exponent = f"{facts['exponent']:.2f} ({facts['low']:.2f} to {facts['high']:.2f})"
    return facts["size"], facts["cost"], times, exponent


def draw_scalings(measured: "list[Scaling]", file: Path) -> None:
    """Draw times against sizes, both relative to the smallest, on logarithmic axes, beside linear growth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for each in measured:
        sizes, seconds = ([value / values[0] for value in values] for values in (each.sizes, each.seconds))
        axes.loglog(sizes, seconds, "o-", label=f"{each.axis} (from {each.sizes[0]})")
    axes.loglog([1, sizes[-1]], [1, sizes[-1]], "k:", label="linear")
    axes.set_xlabel("size, relative to the smallest")
    axes.set_ylabel("time, relative to the smallest")
    axes.legend()
    figure.savefig(file)
