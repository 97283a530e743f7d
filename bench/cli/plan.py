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

FACTOR = 3
"""How far estimates from a calibration are off, as docs/suites.md has it."""

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
    no_calibrate: Annotated[
        bool,
        typer.Option(
            "--no-calibrate", help="Do not measure for a few seconds how long items take that were not timed."
        ),
    ] = False,
    json_: options.JsonOption = False,
) -> None:
    """Show what a run would do: what is cached, what is left, and how much time and disk space it needs.

    Items take as long as those like them that were timed in the run's folder. Where there are none, a
    calibration of about 12 seconds of computing estimates it; the result is kept for the next time.
    """
    from bench.engine.monitoring.console import show_activity
    from bench.engine.planning.calibration import Calibration
    from bench.engine.planning.estimate import check_disk_space, estimate_kinds
    from bench.engine.planning.omissions import summarize_omissions
    from bench.engine.planning.present_data import PresentData
    from bench.engine.planning.remaining_work import find_remaining_work

    planned, context = plan_run(suite, only, set_, out, data_root, cache, device)
    remaining = find_remaining_work(planned, context.store, rerun, PresentData(context))
    workers = count_workers(jobs, context.device)
    calibration = Calibration(context, budget_s=0)
    kinds = estimate_kinds(remaining, context, workers, calibration)
    if not (no_calibrate or calibration.is_complete):
        with show_activity("measuring how long items take, since none like them was timed yet"):
            calibration = Calibration(context)
            kinds = estimate_kinds(remaining, context, workers, calibration)
            calibration.keep()
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
    if any(kind.calibrated for kind in kinds):
        print_result(fill_paragraphs(f"note: {describe_calibration(calibration.is_complete)}", width))
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


def describe_calibration(is_complete: bool) -> str:
    """Return a sentence on how good times from a calibration are."""
    more = "" if is_complete else "; it is not complete, and the same command continues it"
    return f"times are estimated from a short calibration, and can be wrong by a factor of {FACTOR}{more}"


def describe_kind(estimate: "KindEstimate", cached: int) -> dict[str, Any]:
    """Return the numbers of one kind of items, as JSON has them."""
    return {
        "kind": estimate.kind,
        "distinct": estimate.count + cached,
        "cached": cached,
        "to_do": estimate.count,
        "seconds": estimate.seconds,
        "untimed": estimate.untimed,
        "calibrated": estimate.calibrated,
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
