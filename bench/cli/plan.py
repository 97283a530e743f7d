"""``bench plan``."""

from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run_folder import print_result
from bench.cli.run_setup import count_workers, plan_run


def plan(
    suite: options.SuiteOption,
    only: options.OnlyOption = None,
    set_: options.SetOption = None,
    out: options.OutOption = None,
    data_root: options.DataRootOption = None,
    cache: options.CacheOption = None,
    jobs: options.JobsOption = None,
    device: options.DeviceOption = "auto",
    rerun: options.RerunOption = "failed",
    list_cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
) -> None:
    """Show what a run would do: what is cached, what is left, and how much time and disk space it needs."""
    from tabulate import tabulate

    from bench.engine.planning.estimate import check_disk_space, estimate_kinds
    from bench.engine.planning.present_data import PresentData
    from bench.engine.planning.remaining_work import find_remaining_work
    from bench.text import format_bytes, format_duration

    planned, context = plan_run(suite, only, set_, out, data_root, cache, device)
    remaining = find_remaining_work(planned, context.store, rerun, PresentData(context))
    workers = count_workers(jobs, context.device)
    kinds = list(estimate_kinds(remaining, context, workers))
    rows = [
        (
            each.kind,
            each.count + remaining.cached[each.kind],
            remaining.cached[each.kind],
            each.count,
            describe_estimate(format_duration(each.seconds), each.count, each.untimed, "none was timed yet"),
            describe_estimate(format_bytes(each.stored), each.count, each.unsized, "not decoded yet"),
        )
        for each in kinds
    ]
    headers = ("items", "distinct", "cached", "to do", f"time with {workers} workers", "disk space")
    print_result(tabulate(rows, headers, "github"))
    if warning := check_disk_space(kinds, context):
        print_result(f"warning: {warning}")
    for warning in planned.warnings:
        print_result(f"warning: {warning}")
    if planned.drawn_by_seed:
        print_result(f"note: every seed draws its own images of {', '.join(planned.drawn_by_seed)}")
    for note in (*planned.left_out, *remaining.notices):
        print_result(f"note: {note}")
    if list_cells:
        to_do = {cell.key for cell in remaining.cells}
        cells = [(cell.key, "to do" if cell.key in to_do else "done", cell.label) for cell in planned.cells]
        print_result("\n" + tabulate(cells, ("key", "state", "cell"), "github"))


def describe_estimate(known: str, count: int, unknown: int, reason: str) -> str:
    """Return the estimate for ``count`` items, of which ``unknown`` items have none for some reason."""
    if not count:
        return "-"
    if unknown == count:
        return f"unknown: {reason}"
    return f"~{known}" + (f", and {unknown} unknown: {reason}" if unknown else "")
