"""The command line: parse, delegate, print. Heavy libraries are imported inside the commands."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from bench.errors import BenchError, unknown_name_error

if TYPE_CHECKING:
    from bench.api import MultiTaskData
    from bench.engine.execution.events import Event
    from bench.engine.executors.base import Executor
    from bench.engine.planning.expand import Plan
    from bench.engine.stages.context import RunContext
    from bench.record import Record

app = typer.Typer(
    name="bench",
    help="Benchmark and leaderboard of unlearnable examples for multi-task learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_INTERRUPTED = 128 + signal.SIGINT
"""The exit code of what Ctrl-C has ended."""

RUNS = Path("runs")
"""Where runs are kept unless --out says otherwise: RUNS/SUITE."""

SuiteOption = Annotated[str, typer.Option("--suite", help="A suite's name (see `bench list suite`) or file.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="AXIS=a,b", help="Run only these values of an axis. Clean counterparts stay."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting of the suite, such as recipe.epochs=5."
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's folder.", show_default="runs/SUITE")]
FoundOption = Annotated[
    Path | None, typer.Option("--out", help="A run's folder.", show_default="the latest in runs/")
]
RootOption = Annotated[Path | None, typer.Option("--data-root", help="The folder that holds the datasets.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Workers at a time; on GPUs, where there is most memory for each.",
        show_default="one per CPU core, one per GPU; Ray: all that have room; Slurm: 16",
    ),
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
ExecutorOption = Annotated[
    Literal["auto", "inline", "processes", "ray", "slurm"],
    typer.Option(
        "--executor",
        help="Where work runs; auto: worker processes, inline where one is enough. ray, slurm: a cluster.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="The Ray cluster to join; auto: the one that this machine is a node of.",
        show_default="a Ray of this machine alone",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        min=0,
        help="GPUs of one worker of a Ray cluster; four share one with 0.25.",
        show_default="1 with --device cuda, else 0",
    ),
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="An option of Slurm's sbatch, such as partition=long."),
]
RerunOption = Annotated[
    Literal["failed", "all", "none"], typer.Option("--rerun", help="Which cells with a record are run again.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="MTLUE_CACHE",
        help="Where decoded images are kept, for every run.",
        show_default="the user's folder for caches",
    ),
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="A dataset as suites name it, such as 'utkface(size=36)'.")
]
UriOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow's tracking URI.", show_default="SQLite in the run's folder"),
]


data = typer.Typer(help="Check a dataset, decode it ahead of a run, or look at it.", no_args_is_help=True)
app.add_typer(data, name="data")


def main() -> NoReturn:
    """Run the command line; an error meant for the user is one sentence and exit code 2."""
    try:
        app()
    except BenchError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    raise AssertionError("typer exits by itself")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


@app.command()
def run(
    suite: SuiteOption,
    only: OnlyOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    data_root: RootOption = None,
    cache: CacheOption = None,
    executor: ExecutorOption = "auto",
    jobs: JobsOption = None,
    address: AddressOption = None,
    gpus: GpusOption = None,
    slurm: SlurmOption = None,
    threads: Annotated[
        int,
        typer.Option("--threads", min=1, help="CPU threads of one worker; part of what fixes the last bits."),
    ] = 1,
    device: DeviceOption = "auto",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="On a GPU, compute in ways that give the same bits every time, which is slower; what has "
            "no such way fails. A CPU gives the same bits in any case.",
        ),
    ] = False,
    rerun: RerunOption = "failed",
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            min=0.1,
            metavar="SECONDS",
            help="How long one surrogate, poison or cell may take before it fails.",
            show_default="none",
        ),
    ] = None,
    tracking_uri: UriOption = None,
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Do not mirror the records to MLflow.")
    ] = False,
) -> None:
    """Run a suite, or what is left of it, and print its leaderboard.

    What is finished is kept: after a kill, a failure or Ctrl-C the same command goes on where it stopped.
    The first Ctrl-C lets finish what is under way, a second one stops at once. Several runs with one --out
    share the work.
    """
    from bench.engine.execution.events import Notice
    from bench.engine.execution.runner import run_plan
    from bench.engine.monitoring.console import show_progress
    from bench.engine.monitoring.progress import RunProgress
    from bench.engine.monitoring.status import publish_status
    from bench.engine.tracking.listener import Tracker
    from bench.engine.tracking.mlflow_store import default_uri
    from bench.record import write_note
    from leaderboard.board_cache import hash_board_inputs, read_cached_board, write_cached_board
    from leaderboard.live_ranking import LiveRanking

    elsewhere = executor in ("ray", "slurm")
    plan, run_context = _plan(suite, only, set_, out, data_root, cache, device, threads, elsewhere)
    run_context = replace(run_context, deterministic=deterministic)
    write_note(run_context.out, plan.suite, plan.left_out)
    with ExitStack() as stack:
        course = RunProgress(LiveRanking())
        show = stack.enter_context(show_progress(course))
        stack.enter_context(publish_status(course, run_context.out))
        listeners: list[Callable[[Event], None]] = [show]
        tracker = None
        if not no_track:
            uri = tracking_uri or default_uri(run_context.out)
            files = run_context.out / "mlartifacts"
            tracker = Tracker(uri, plan.suite, files, lambda sentence: show(Notice(sentence)))
            listeners.append(stack.enter_context(tracker))
        stopped = stack.enter_context(_interruptible(lambda sentence: show(Notice(sentence))))
        workers = stack.enter_context(
            _cluster(executor, run_context, jobs, time_limit, address, gpus, slurm or ())
            if elsewhere
            else _executor(executor, jobs, threads, run_context.device, time_limit)
        )
        finished = run_plan(plan, run_context, workers, listeners, rerun, stopped)
    if left := len(plan.cells) - finished.done - finished.cached - finished.failed:
        _say(f"interrupted: {left} cells are left; the same command goes on with them")
        sys.exit(_INTERRUPTED)
    made_from = hash_board_inputs(run_context.out)
    board = read_cached_board(run_context.out, made_from)
    if board is None:
        records = _records(run_context.out, curve=False)
        board = drawn = _board(run_context.out, records)
        write_cached_board(run_context.out, made_from, board)
        if tracker is not None:
            tracker.conclude(records, lambda: _exhibits(run_context.out, records, drawn))
    print(board)
    _say(f"records and leaderboard.md are in {run_context.out}")
    if finished.failed:
        _say(f"{finished.failed} cells failed; the same command tries them again")
        sys.exit(1)


@contextmanager
def _interruptible(tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Yield whether Ctrl-C was pressed within the block; pressed once more, it ends the program."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()
        # Not from here: a handler that waits for a lock of what it has interrupted would wait for ever.
        sentence = "finishing what is under way; Ctrl-C once more stops at once"
        threading.Thread(target=tell, args=(sentence,)).start()

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as a shell has it for what it runs in the background
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    except KeyboardInterrupt:
        _say("stopped at once; the same command goes on")
        sys.exit(_INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)


def _plan(
    suite: str,
    only: Sequence[str] | None,
    set_: Sequence[str] | None,
    out: Path | None,
    data_root: Path | None,
    cache: Path | None,
    device: str,
    threads: int,
    elsewhere: bool = False,
) -> "tuple[Plan, RunContext]":
    from bench.engine.planning.expand import expand_suite
    from bench.engine.planning.suite_file import read_suite
    from bench.engine.stages.context import RunContext

    root = _root(data_root)
    plan = expand_suite(read_suite(suite, set_ or ()), only or (), data_root)
    folder = (out or RUNS / plan.suite).absolute()
    return plan, RunContext(folder, root, _cache(cache), _device(device, elsewhere), threads, plan.suite)


def _root(data_root: Path | None) -> Path | None:
    if data_root is not None and not data_root.is_dir():
        raise BenchError(f"there is no data root {data_root}")
    return None if data_root is None else data_root.resolve()


def _cache(cache: Path | None) -> Path:
    """Return where decoded images are kept: the folder given, or the user's for such things."""
    from platformdirs import user_cache_path

    return (cache or user_cache_path("mtlue-bench")).absolute()


def _device(wanted: str, elsewhere: bool) -> str:
    import torch

    if elsewhere and wanted == "cuda":  # a login node has none itself
        return "cuda"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BenchError("this torch sees no CUDA device; give --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(jobs: int | None, device: str) -> int:
    if jobs or device != "cuda":
        return jobs or _cores()
    import torch

    return torch.cuda.device_count()


def _executor(name: str, jobs: int | None, threads: int, device: str, time_limit: float | None) -> "Executor":
    from bench.engine.executors.inline import Inline
    from bench.engine.executors.processes import Processes, assign_gpus

    count = _jobs(jobs, device)
    if name == "inline" and time_limit is not None:
        raise BenchError("--time-limit needs workers that can be killed; give --executor processes")
    if name == "inline" or (name == "auto" and count == 1 and time_limit is None):
        return Inline(threads)
    gpus: list[str] = []
    if device == "cuda":
        from bench.engine.stages.device import free_gpu_memory

        gpus = assign_gpus(free_gpu_memory(), count)
    return Processes(count, threads, time_limit, gpus)


def _cluster(
    name: str,
    run_context: "RunContext",
    jobs: int | None,
    time_limit: float | None,
    address: str | None,
    gpus: float | None,
    slurm: Sequence[str],
) -> "Executor":
    """Return the executor of a cluster: Ray's or Slurm's."""
    on_gpu = run_context.device == "cuda"
    wrong = [given for given in slurm if not all(given.partition("="))]
    if wrong:
        raise BenchError(f"--slurm {wrong[0]} is not understood; give KEY=VALUE, such as partition=long")
    options = {key: value for key, _, value in (given.partition("=") for given in slurm)}
    if on_gpu and not any(key.startswith(("gpus", "gres")) for key in options):
        options["gpus-per-node"] = "1"
    try:
        if name == "ray":
            from bench.engine.executors.ray import Ray

            share = float(on_gpu) if gpus is None else gpus
            return Ray(run_context.out, address, jobs, run_context.threads, share, time_limit)
        from bench.engine.executors.slurm import Slurm

        return Slurm(run_context.out, options, jobs, run_context.threads, time_limit)
    except ModuleNotFoundError as error:
        raise BenchError(
            f"--executor {name} needs the package {error.name}; pip install 'mtlue-bench[{name}]'"
        ) from error


@app.command()
def plan(
    suite: SuiteOption,
    only: OnlyOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    data_root: RootOption = None,
    cache: CacheOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    rerun: RerunOption = "failed",
    cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
) -> None:
    """Show what a run would do: what is made once for many cells, what is there, expected time and space."""
    from tabulate import tabulate

    from bench.engine.planning.estimate import check_disk_space, estimate_waves
    from bench.engine.planning.remaining_work import find_remaining_work
    from bench.text import format_bytes, format_duration

    planned, run_context = _plan(suite, only, set_, out, data_root, cache, device, 1)
    chosen = find_remaining_work(planned, run_context.store, rerun)
    workers = _jobs(jobs, run_context.device)
    expected = list(estimate_waves(chosen, run_context, workers))
    rows = [
        (
            *(each.wave, each.count + chosen.cached[each.wave], chosen.cached[each.wave], each.count),
            _and_unknown(
                format_duration(each.seconds), each.count, each.untimed, "nothing like it was timed yet"
            ),
            _and_unknown(format_bytes(each.stored), each.count, each.unsized, "not decoded yet"),
        )
        for each in expected
    ]
    headers = ("wave", "distinct", "cached", "to do", f"expected, {workers} at a time", "to be stored")
    print(tabulate(rows, headers, "github"))
    if full := check_disk_space(expected, run_context):
        print(f"warning: {full}")
    for sentence in (*planned.left_out, *chosen.notices):
        print(f"note: {sentence}")
    if cells:
        due = {cell.key for cell in chosen.cells}
        listed = [(cell.key, "to do" if cell.key in due else "done", cell.label) for cell in planned.cells]
        print("\n" + tabulate(listed, ("key", "state", "cell"), "github"))


def _and_unknown(known: str, count: int, unknown_name_error: int, why: str) -> str:
    """Say what is known of some things to do, and of how many it is not."""
    if not count:
        return "-"
    if unknown_name_error == count:
        return f"unknown: {why}"
    return f"~{known}" + (f", and {unknown_name_error} unknown: {why}" if unknown_name_error else "")


@app.command()
def status(out: FoundOption = None) -> None:
    """Show what the runs on a folder are doing right now, asked from any terminal."""
    from rich.console import Console

    from bench.engine.monitoring.status import explain_absence, read_statuses, render_status

    folder = _found(out)
    seen = read_statuses(folder)
    alive = [one for one in seen if one.alive]
    screen = Console(highlight=False)
    for one in alive:
        screen.print(render_status(one, folder, screen.width))
    if not alive:
        print(explain_absence(seen, folder))


@app.command()
def why(
    cell: Annotated[
        list[str],
        typer.Argument(help="The beginning of its key, or words of its label: em jpeg 'seed 0'."),
    ],
    out: FoundOption = None,
) -> None:
    """Explain a cell: scores, error, every setting, where it came from, the end of its log.

    The key of a poison or a surrogate is explained too.
    """
    from bench.engine.monitoring.explain import (
        explain_cell,
        explain_shared,
        find_clean_record,
        find_items,
        list_items,
    )
    from leaderboard.scores import protections

    folder = _found(out)
    found = find_items(folder, cell)
    if len(found) > 1:
        print(list_items(found))
        raise BenchError(f"{len(found)} things are meant by {' '.join(cell)!r}; give more words or a key")
    record = found[0].record
    if record is None:
        print(explain_shared(found[0], folder))
        return
    clean = find_clean_record(folder, record)
    print(explain_cell(record, folder, clean, protections(record, clean.scores) if clean else {}))


@app.command()
def report(
    out: FoundOption = None,
    format_: Annotated[
        Literal["markdown", "csv", "json"], typer.Option("--format", help="How to write it.")
    ] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file.", show_default="standard output")
    ] = None,
) -> None:
    """Print the leaderboard of a run, or its scores as csv or json: one row per cell and task."""
    folder = _found(out)
    if format_ == "markdown":
        text = _board(folder, _records(folder, curve=False))
    else:
        from leaderboard.board import to_csv, to_json
        from leaderboard.frame import to_frame

        text = (to_csv if format_ == "csv" else to_json)(to_frame(_records(folder, curve=False)))
    if output is None:
        print(text)
    else:
        _write(output, text)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A value of the axis, such as em.")],
    b: Annotated[str, typer.Argument(help="Another one, such as mtl-ue-em.")],
    axis: Annotated[str, typer.Option("--axis", help="The axis the two are on.")] = "attack",
    out: FoundOption = None,
) -> None:
    """Settle an argument: pair the cells that differ in A and B alone and compare their protection."""
    from leaderboard.board import render_comparison
    from leaderboard.comparison import compare_attacks as compare_cells
    from leaderboard.frame import to_frame

    print(render_comparison(compare_cells(to_frame(_records(_found(out), curve=False)), a, b, axis)))


@app.command()
def check(
    against: Annotated[Path, typer.Option("--against", help="The reference file.")],
    out: FoundOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the reference from this run instead.")
    ] = False,
) -> None:
    """Compare a run with a committed reference: exit code 1 where scores, or grossly costs, regressed."""
    from leaderboard import reference

    records = _records(_found(out), curve=False)
    if update:
        reference.write_reference(against, reference.summarize_records(records))
        print(f"wrote {against} from {len(records)} records")
        return
    moves = reference.check_against_reference(reference.read_reference(against), records)
    print(reference.render_moves(moves))
    if any(move.verdict in reference.BAD for move in moves):
        sys.exit(1)


@app.command(name="list")
def list_(
    axis: Annotated[str | None, typer.Argument(help="dataset, attack, backbone, ..., or suite.")] = None,
) -> None:
    """List the catalog: every part with its paper, and the suites."""
    from tabulate import tabulate

    from bench.catalog.table import COMPOSED, catalog_axes, names_on_axis

    if axis not in (None, "suite", *catalog_axes()):
        raise unknown_name_error("axis", str(axis), ("suite", *catalog_axes()))
    for name in catalog_axes() if axis is None else (axis,):
        if name == "suite":
            continue
        rows = [(part, *_described(name, part)) for part in sorted(names_on_axis(name))]
        widths = [None, 60, 60]
        print(tabulate(rows, (name, "what it is", "source"), "rounded_grid", maxcolwidths=widths) + "\n")
        if name in COMPOSED:
            print(f"several as one, from left to right: {name} FIRST+SECOND\n")
    if axis in (None, "suite"):
        from bench.suites import describe_suites

        rows2 = describe_suites()
        print(tabulate(rows2, ("suite", "what it is"), "rounded_grid", maxcolwidths=[None, 100]))


def _described(axis: str, part: str) -> tuple[str, str]:
    """Return what a part is and its source; of a broken one from outside, what is wrong with it."""
    from bench.catalog.description import describe_part

    try:
        found = describe_part(axis, part)
    except BenchError as error:
        return f"cannot be read: {error}", ""
    return found.summary, found.source


@app.command()
def show(
    axis: Annotated[str, typer.Argument(help="dataset, attack, backbone, ...")],
    name: Annotated[str, typer.Argument(help="The part's name.")],
) -> None:
    """Show one part: what it does, its paper, its parameters and their defaults."""
    from bench.catalog.table import COMPOSED

    for number, part in enumerate(name.split("+") if axis in COMPOSED else [name]):
        if number:
            print()
        _show(axis, part.strip())


def _show(axis: str, name: str) -> None:
    from tabulate import tabulate

    from bench.catalog.description import describe_part
    from bench.catalog.table import locate_part

    found = describe_part(axis, name)
    print(f"{axis} {name}  ({locate_part(axis, name)})\n\n{found.docstring}\n")
    if found.parameters:
        rows = [(field.name, field.type, field.default, field.meaning) for field in found.parameters]
        headers, widths = ("parameter", "type", "default", "meaning"), [None, 34, None, 70]
        print(tabulate(rows, headers, "simple", maxcolwidths=widths, disable_numparse=True))
    else:
        print("no parameters")


@app.command()
def conform(
    attack: Annotated[
        str,
        typer.Argument(
            help="The attack, as a suite names it. It is crafted some twenty times on 40 small images; small "
            "parameters make that quick: 'em(rounds=2, steps=2, surrogate_steps=2)'."
        ),
    ],
) -> None:
    """Run the contract tests on an attack, from a package of your own for instance, and say what fails.

    Exit code 1 where something does.
    """
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from bench.conformance.checks import TOTAL
    from bench.conformance.craft_run import AttackUnderTest
    from bench.conformance.report import render_verdicts, run_checks

    torch.set_num_threads(1)
    trial = AttackUnderTest(attack)
    verdicts = []
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(attack, total=TOTAL)
        for verdict in run_checks(trial):
            verdicts.append(verdict)
            progress.update(bar, advance=1, description=verdict.check)
    print(render_verdicts(trial.choice.label, verdicts))
    if any(verdict.failure for verdict in verdicts):
        sys.exit(1)


@data.command(name="check")
def data_check(name: DatasetArgument, data_root: RootOption = None, cache: CacheOption = None) -> None:
    """Load a dataset and say what is in it: counts, rates, floors, labels that are missing, leaks."""
    from dataclasses import asdict

    from bench.catalog.build import load_part_class
    from bench.catalog.choice import Choice
    from bench.dataset_report.statistics import compute_statistics
    from bench.dataset_report.text import render_text

    label, loaded, _ = _load(name, data_root, _cache(cache))
    print(render_text(compute_statistics(label, loaded)))
    recipe = asdict(load_part_class("dataset", Choice.parse(name).name).recipe)
    print("\nrecipe: " + ", ".join(f"{entry} = {value}" for entry, value in recipe.items() if value))


@data.command(name="prepare")
def data_prepare(name: DatasetArgument, data_root: RootOption = None, cache: CacheOption = None) -> None:
    """Decode a dataset's images once, so that no run waits for it."""
    from bench.text import format_duration

    folder = _cache(cache)
    before = _kept(folder)
    label, loaded, seconds = _load(name, data_root, folder, notes=True)
    made = sorted(path for path, _ in _kept(folder) - before)
    splits = (loaded.train, loaded.test)
    size = sum(tensor.nbytes for split in splits for tensor in (split.images, *split.targets.values()))
    what = f"written to {', '.join(map(str, made))}" if made else "nothing was left to decode"
    print(
        f"{label}: {sum(map(len, splits)):,} images, {size / 1e6:,.1f} MB with their labels; {what} "
        f"({format_duration(seconds)})"
    )


@data.command(name="show")
def data_show(
    name: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")],
    data_root: RootOption = None,
    cache: CacheOption = None,
) -> None:
    """Write a web page, one file, with some of a dataset's images, their labels and all counts."""
    from bench.catalog.choice import Choice
    from bench.catalog.description import describe_part
    from bench.dataset_report.html import render_page
    from bench.dataset_report.statistics import compute_statistics

    label, loaded, _ = _load(name, data_root, _cache(cache))
    about = describe_part("dataset", Choice.parse(name).name)
    _write(output, render_page(compute_statistics(label, loaded), loaded, about))
    print(f"wrote {output}")


def _load(
    name: str, data_root: Path | None, cache: Path, *, notes: bool = False
) -> "tuple[str, MultiTaskData, float]":
    """Return a dataset's canonical name, what it loads and in how many seconds; a bar shows it decoding.

    Its notes are only told here if ``notes`` is set; a sheet has them.
    """
    from time import perf_counter

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bench.catalog.build import build_part
    from bench.catalog.choice import Choice

    choice, root = Choice.parse(name), _root(data_root)
    dataset = build_part("dataset", choice)
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(choice.label, total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        started = perf_counter()
        with nullcontext() if notes else _muted():
            loaded = dataset.load(root, cache, show)
        return choice.label, loaded, perf_counter() - started


@contextmanager
def _muted() -> Iterator[None]:
    """Keep the package's warnings to itself within the block."""
    import logging

    logger = logging.getLogger("bench")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _kept(cache: Path) -> set[tuple[Path, int]]:
    """Return the folders of decoded images, each with its time of change."""
    return {(path, path.stat().st_mtime_ns) for path in cache.glob("[!.]*") if path.is_dir()}


@app.command()
def track(out: FoundOption = None, tracking_uri: UriOption = None) -> None:
    """Rebuild the MLflow mirror of a run from its records, without duplicates."""
    from rich.console import Console
    from rich.progress import track as advance

    from bench.engine.tracking.listener import rebuild_mirror
    from bench.engine.tracking.mlflow_store import default_uri

    folder = _found(out)
    uri = tracking_uri or default_uri(folder)
    records = _records(folder, curve=False)
    oldest_first = _reread(folder, sorted(records, key=lambda record: record.finished))
    screen = Console(stderr=True)
    quiet = not screen.is_terminal
    shown = advance(oldest_first, "tracking", len(records), console=screen, transient=True, disable=quiet)
    added, kept, replaced = rebuild_mirror(
        uri, shown, folder / "mlartifacts", lambda: _exhibits(folder, records, _board(folder, records))
    )
    print(f"{uri}: {added} runs added, {replaced} replaced, {kept} kept")


def _found(out: Path | None) -> Path:
    """Return a run's folder: the one given, or the one with the latest record."""
    if out is not None:
        if not (out / "records").is_dir():
            raise BenchError(
                f"{out} is no run's folder: it has no records/; `bench run --out {out}` makes one"
            )
        return out
    folders = sorted(RUNS.glob("*/records"), key=lambda folder: folder.stat().st_mtime)
    if not folders:
        raise BenchError(
            f"there is no run in {RUNS.absolute()}; give --out, or start with `bench run --suite smoke`"
        )
    return folders[-1].parent


def _records(folder: Path, *, curve: bool = True) -> "list[Record]":
    """Return a run's records, with or without learning curves; damaged ones are named and left out."""
    import gc

    from bench.record import Record, read_records

    records = []
    gc.disable()  # ten thousand records hold no cycle, and looking for one takes longer than reading them
    try:
        for record in read_records(folder / "records", curve=curve):
            if isinstance(record, Record):
                records.append(record)
            else:
                _say(f"note: {record}; it is left out, and `bench run` makes it again")
    finally:
        gc.enable()
    if not records:
        raise BenchError(f"{folder / 'records'} has no record yet")
    return records


def _reread(folder: Path, records: "Sequence[Record]") -> "Iterator[Record]":
    """Yield the records with their curves, one at a time: they need not fit in memory."""
    from bench.record import read_record

    for record in records:
        yield read_record(folder / "records" / f"{record.key}.json")


def _board(folder: Path, records: "Sequence[Record]") -> str:
    from bench.record import read_note
    from leaderboard.board import render_board

    return render_board(records, left_out=read_note(folder))


def _exhibits(folder: Path, records: "Sequence[Record]", board: str) -> dict[str, bytes]:
    """Return what a tracker keeps of a whole run: the board, its rows and its figures."""
    from leaderboard.board import to_csv
    from leaderboard.figures import draw_figures
    from leaderboard.frame import to_frame

    figures = {f"figures/{name}": content for name, content in draw_figures(_reread(folder, records)).items()}
    texts = {"leaderboard.md": board, "leaderboard.csv": to_csv(to_frame(records))}
    return {name: text.encode() for name, text in texts.items()} | figures


def _write(path: Path, text: str) -> None:
    from bench.files import write_atomically

    write_atomically(path, text if text.endswith("\n") else text + "\n")
