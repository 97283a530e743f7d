"""``bench scaling``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.run_folder import print_message, print_result
from bench.cli.run_setup import resolve_device

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
) -> None:
    """Measure how time grows with images, tasks, pixels and checkpoints, and fit a power law to each.

    The data are random and the network is `small`, on one CPU thread or one GPU. An exponent of 1 is linear
    growth.
    """
    import torch
    from tabulate import tabulate

    from bench.conformance.scaling import AXES_OF_COST, measure_scaling

    torch.set_num_threads(1)
    chosen = torch.device(resolve_device(device, on_cluster=False))
    measured = []
    for name, axis in AXES_OF_COST.items():
        print_message(f"timing {axis.what} by {name}")
        measured.append(measure_scaling(name, axis.sizes(doublings), rounds, chosen))
    rows = []
    for each in measured:
        exponent, low, high = each.exponent()
        times = ", ".join(
            f"{size}: {seconds:.3g}" for size, seconds in zip(each.sizes, each.seconds, strict=True)
        )
        what = AXES_OF_COST[each.axis].what
        rows.append((each.axis, what, times, f"{exponent:.2f} ({low:.2f} to {high:.2f})"))
    print_result(tabulate(rows, ("size", "cost", "seconds by size", "exponent (95 %)"), "github"))
    if plot is not None:
        draw_scalings(measured, plot)


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
