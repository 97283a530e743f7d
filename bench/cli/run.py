"""``bench run``."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli import options
from bench.cli.board_views import find_views, print_table
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_message
from bench.cli.run_outputs import BOARD_FILE, SUMMARY_FILE, Files, update_outputs
from bench.cli.run_setup import CLUSTERS, cluster_executor, local_executor, plan_run

if TYPE_CHECKING:
    from bench.engine.execution.events import Event, RunFinished

INTERRUPTED = 128 + signal.SIGINT
"""The exit code after Ctrl-C."""


def run(
    suite: options.SuiteOption,
    only: options.OnlyOption = None,
    set_: options.SetOption = None,
    out: options.OutOption = None,
    data_root: options.DataRootOption = None,
    cache: options.CacheOption = None,
    executor: options.ExecutorOption = "auto",
    jobs: options.JobsOption = None,
    address: options.AddressOption = None,
    gpus: options.GpusOption = None,
    slurm: options.SlurmOption = None,
    threads: Annotated[
        int,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            help="CPU threads per worker. Changing it can change results in the last bits.",
        ),
    ] = 1,
    device: options.DeviceOption = "auto",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="On a GPU, use only algorithms that give the same bits every time. They are slower, and an "
            "operation without one fails. A CPU gives the same bits in any case.",
        ),
    ] = False,
    precision: Annotated[
        Literal["float32", "bf16"],
        typer.Option(
            "--precision",
            help="What networks multiply in. bf16 is faster on recent GPUs and changes results, which the "
            "records note.",
        ),
    ] = "float32",
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the encoders of networks with torch.compile, which takes a minute per network and "
            "pays for long trainings on a GPU. Changes results in the last bits.",
        ),
    ] = False,
    rerun: options.RerunOption = "failed",
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            min=0.1,
            metavar="SECONDS",
            help="The longest time for one surrogate, poison or cell. After that it fails.",
            show_default="none",
        ),
    ] = None,
    track: options.TrackOption = None,
    tracking_uri: options.TrackingUriOption = None,
    no_track: Annotated[bool, typer.Option("--no-track", help="Do not copy the records anywhere.")] = False,
    no_images: Annotated[
        bool,
        typer.Option("--no-images", help="Keep no example images of the dataset with new poisons."),
    ] = False,
    json_: options.JsonOption = False,
) -> None:
    """Run a suite, or what is left of it, and print its leaderboard.

    Finished work is kept: after a crash, a failure or Ctrl-C, the same command continues where it stopped.
    Press Ctrl-C once to finish the items in progress and stop, twice to stop at once. Several runs with the
    same --out share the work.
    """
    from bench.engine.execution.events import Notice
    from bench.engine.execution.runner import run_plan
    from bench.engine.monitoring.console import show_progress
    from bench.engine.monitoring.observer import observe_run
    from bench.engine.monitoring.progress import RunProgress
    from bench.engine.monitoring.status import publish_status
    from bench.engine.tracking.destinations import find_destinations
    from bench.engine.tracking.listener import Tracker
    from bench.run_summary import write_run_summary
    from leaderboard.cell_protection import CellProtections
    from leaderboard.live_ranking import LiveRanking

    on_cluster = executor in CLUSTERS
    plan, context = plan_run(
        suite,
        only,
        set_,
        out,
        data_root,
        cache,
        device,
        on_cluster,
        threads=threads,
        deterministic=deterministic,
        precision=precision,
        compile=compile_,
        keep_images=not no_images,
    )
    destinations = [] if no_track else find_destinations(track, context.out, tracking_uri)
    context.store.prepare()
    write_run_summary(context.out, plan.suite, plan.left_out)
    with ExitStack() as stack:
        progress = RunProgress(LiveRanking())
        display = stack.enter_context(show_progress(progress))
        stack.enter_context(observe_run(progress, context.out))
        stack.enter_context(publish_status(progress, context.out))

        def notify(message: str) -> None:
            display(Notice(message))

        trackers = [Tracker(each, plan.suite, CellProtections().add, notify) for each in destinations]
        listeners: list[Callable[[Event], None]] = [progress, display, *map(stack.enter_context, trackers)]
        interrupted = stack.enter_context(catch_interrupt(notify))
        workers = stack.enter_context(
            cluster_executor(executor, jobs, context, time_limit, address, gpus, slurm or ())
            if on_cluster
            else local_executor(executor, jobs, context, time_limit)
        )
        finished = run_plan(plan, context, workers, listeners, rerun, interrupted)
    if left := len(plan.cells) - finished.done - finished.cached - finished.failed:
        print_message(f"interrupted: {left} cells are left; the same command continues with them")
        sys.exit(INTERRUPTED)
    board = update_outputs(context.out, trackers)
    if json_:
        print_run_as_json(context.out, finished, board)
    elif sys.stdout.isatty():
        print_table(board, find_views(context.out))
    else:
        print(board[BOARD_FILE].decode(), end="")
        print_message(f"records and {BOARD_FILE} are in {context.out}")
    if finished.failed:
        print_message(f"{finished.failed} cells failed; the same command tries them again")
        sys.exit(1)


def print_run_as_json(folder: Path, finished: "RunFinished", board: Files) -> None:
    """Print the folder of a run, what it did, and its rankings, as one JSON document."""
    counts = {"done": finished.done, "cached": finished.cached, "failed": finished.failed}
    print_json({"folder": folder, "cells": counts, "board": json.loads(board[SUMMARY_FILE])})


@contextmanager
def catch_interrupt(notify: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed; a second Ctrl-C ends the program."""
    pressed = threading.Event()

    def handle(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()
        # In a thread: the handler could wait forever for a lock that the interrupted code holds.
        message = "finishing the items in progress; press Ctrl-C again to stop at once"
        threading.Thread(target=notify, args=(message,)).start()

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # a shell ignores it for commands in the background
        signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    except KeyboardInterrupt:
        print_message("stopped at once; the same command continues the run")
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)
