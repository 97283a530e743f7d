"""``bench plan``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_result
from bench.cli.run_setup import count_workers, plan_run
from bench.table import fill_paragraphs, format_table, terminal_width
from bench.text import format_bytes, format_duration

if TYPE_CHECKING:
    from bench.engine.planning.estimate import KindEstimate


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
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List everything that is left out, one by one.")
    ] = False,
    json_: options.JsonOption = False,
) -> None:
    """Show what a run would do: what is cached, what is left, and how much time and disk space it needs."""
    from bench.engine.planning.estimate import check_disk_space, estimate_kinds
    from bench.engine.planning.omissions import summarize_omissions
    from bench.engine.planning.present_data import PresentData
    from bench.engine.planning.remaining_work import find_remaining_work

    planned, context = plan_run(suite, only, set_, out, data_root, cache, device)
    remaining = find_remaining_work(planned, context.store, rerun, PresentData(context))
    workers = count_workers(jobs, context.device)
    kinds = list(estimate_kinds(remaining, context, workers))
    disk_warning = check_disk_space(kinds, context)
    to_do = {cell.key for cell in remaining.cells} if list_cells else set()
    cells = [
        (cell.key, "to do" if cell.key in to_do else "done", cell.label)
        for cell in (planned.cells if list_cells else ())
    ]
    facts: dict[str, Any] = {
        "suite": planned.suite,
        "folder": str(context.out),
        "workers": workers,
        "kinds": [describe_kind(each, remaining.cached[each.kind]) for each in kinds],
        "warnings": [*filter(None, [disk_warning]), *planned.warnings],
        "drawn_by_seed": planned.drawn_by_seed,
        "left_out": planned.omissions,
        "notes": remaining.notices,
        "cells": [dict(zip(("key", "state", "label"), cell, strict=True)) for cell in cells],
    }
    if json_:
        print_json(facts)
        return
    width = terminal_width()
    print_result(render_kinds(facts["kinds"], workers, width))
    for warning in facts["warnings"]:
        print_result(fill_paragraphs(f"warning: {warning}", width))
    if planned.drawn_by_seed:
        print_result(f"note: every seed draws its own images of {', '.join(planned.drawn_by_seed)}")
    left_out = planned.left_out if verbose else summarize_omissions(planned.omissions)
    for note in (*left_out, *remaining.notices):
        print_result(fill_paragraphs(f"note: {note}", width))
    if left_out != planned.left_out:
        print_result("note: --verbose lists everything that is left out")
    if list_cells:
        print_result("\n" + format_table(cells, ("key", "state", "cell"), width))


def describe_kind(estimate: "KindEstimate", cached: int) -> dict[str, Any]:
    """Return the numbers of one kind of items, as JSON has them."""
    return {
        "kind": estimate.kind,
        "distinct": estimate.count + cached,
        "cached": cached,
        "to_do": estimate.count,
        "seconds": estimate.seconds,
        "untimed": estimate.untimed,
        "bytes": estimate.stored,
        "unsized": estimate.unsized,
    }


def render_kinds(kinds: Sequence[dict[str, Any]], workers: int, width: int | None) -> str:
    """Return the table of the kinds of items, for a terminal of a width."""
    rows = [
        (
            kind["kind"],
            kind["distinct"],
            kind["cached"],
            kind["to_do"],
            format_estimate(
                format_duration(kind["seconds"]), kind["to_do"], kind["untimed"], "none was timed yet"
            ),
            format_estimate(format_bytes(kind["bytes"]), kind["to_do"], kind["unsized"], "not decoded yet"),
        )
        for kind in kinds
    ]
    headers = ("items", "distinct", "cached", "to do", f"time with {workers} workers", "disk space")
    return format_table(rows, headers, width, right=(1, 2, 3))


def format_estimate(known: str, count: int, unknown: int, reason: str) -> str:
    """Return the estimate for ``count`` items, of which ``unknown`` items have none for some reason."""
    if not count:
        return "-"
    if unknown == count:
        return f"unknown: {reason}"
    return f"~{known}" + (f", and {unknown} unknown: {reason}" if unknown else "")
