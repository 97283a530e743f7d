"""The command line: parse, delegate, print. Heavy libraries are imported inside the commands."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from bench.errors import BenchError, unknown

if TYPE_CHECKING:
    from bench.api import MultiTaskData
    from bench.engine.events import Event
    from bench.engine.executors import Executor
    from bench.engine.pipeline import Workshop
    from bench.engine.suite import Plan
    from bench.record import Record

app = typer.Typer(
    name="bench",
    help="Benchmark and leaderboard of unlearnable examples for multi-task learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    typer.Option("--jobs", min=1, help="Worker processes.", show_default="one per CPU core, 1 on a GPU"),
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
ExecutorOption = Annotated[
    Literal["auto", "inline", "processes"],
    typer.Option("--executor", help="Where work runs; auto: worker processes, inline where one is enough."),
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
    threads: Annotated[
        int,
        typer.Option("--threads", min=1, help="CPU threads of one worker; part of what fixes the last bits."),
    ] = 1,
    device: DeviceOption = "auto",
    rerun: RerunOption = "failed",
    tracking_uri: UriOption = None,
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Do not mirror the records to MLflow.")
    ] = False,
) -> None:
    """Run a suite, or what is left of it, and print its leaderboard.

    What is finished is kept: after a kill or a failure the same command goes on where it stopped.
    """
    from bench.engine.console import console
    from bench.engine.events import Notice
    from bench.engine.runner import run as run_plan
    from bench.engine.tracking import Tracker, default_uri
    from bench.record import write_note

    plan, workshop = _plan(suite, only, set_, out, data_root, cache, device, threads)
    write_note(workshop.out, plan.suite, plan.left_out)
    with ExitStack() as stack:
        show = stack.enter_context(console())
        listeners: list[Callable[[Event], None]] = [show]
        if not no_track:
            uri = tracking_uri or default_uri(workshop.out)
            tracker = Tracker(uri, plan.suite, workshop.out, lambda sentence: show(Notice(sentence)))
            listeners.append(stack.enter_context(tracker))
        workers = stack.enter_context(_executor(executor, jobs, threads, workshop.device))
        finished = run_plan(plan, workshop, workers, listeners, rerun)
    board = _board(workshop.out)
    _write(workshop.out / "leaderboard.md", board)
    print(board)
    _say(f"records and leaderboard.md are in {workshop.out}")
    if finished.failed:
        _say(f"{finished.failed} cells failed; the same command tries them again")
        sys.exit(1)


def _plan(
    suite: str,
    only: Sequence[str] | None,
    set_: Sequence[str] | None,
    out: Path | None,
    data_root: Path | None,
    cache: Path | None,
    device: str,
    threads: int,
) -> "tuple[Plan, Workshop]":
    from bench.engine.pipeline import Workshop
    from bench.engine.suite import expand, read_suite

    root = _root(data_root)
    plan = expand(read_suite(suite, set_ or ()), only or (), data_root)
    folder = (out or RUNS / plan.suite).absolute()
    return plan, Workshop(folder, root, _cache(cache), _device(device), threads, plan.suite)


def _root(data_root: Path | None) -> Path | None:
    if data_root is not None and not data_root.is_dir():
        raise BenchError(f"there is no data root {data_root}")
    return None if data_root is None else data_root.resolve()


def _cache(cache: Path | None) -> Path:
    """Return where decoded images are kept: the folder given, or the user's for such things."""
    from platformdirs import user_cache_path

    return (cache or user_cache_path("mtlue-bench")).absolute()


def _device(wanted: str) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise BenchError("this torch sees no CUDA device; give --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(jobs: int | None, device: str) -> int:
    return jobs or (1 if device == "cuda" else _cores())


def _executor(name: str, jobs: int | None, threads: int, device: str) -> "Executor":
    from bench.engine.executors import Inline, Processes

    count = _jobs(jobs, device)
    if name == "inline" or (name == "auto" and count == 1):
        return Inline(threads)
    return Processes(count, threads)


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
    """Show what a run would do: surrogates, poisons and cells, what is there already, the expected time."""
    from tabulate import tabulate

    from bench.engine.forecast import forecast
    from bench.engine.runner import select

    planned, workshop = _plan(suite, only, set_, out, data_root, cache, device, 1)
    chosen = select(planned, workshop.store, rerun)
    workers = _jobs(jobs, workshop.device)
    rows = [
        (wave, count + chosen.cached[wave], chosen.cached[wave], count, _expected(seconds, count, untimed))
        for wave, count, seconds, untimed in forecast(chosen, workshop.store, workers)
    ]
    print(tabulate(rows, ("wave", "distinct", "cached", "to do", f"expected, {workers} at a time"), "github"))
    for sentence in (*planned.left_out, *chosen.notices):
        print(f"note: {sentence}")
    if cells:
        due = {cell.key for cell in chosen.cells}
        listed = [(cell.key, "to do" if cell.key in due else "done", cell.label) for cell in planned.cells]
        print("\n" + tabulate(listed, ("key", "state", "cell"), "github"))


def _expected(seconds: float, count: int, untimed: int) -> str:
    from bench.engine.console import duration

    if not count:
        return "-"
    if untimed == count:
        return "unknown: nothing like it was timed yet"
    return f"~{duration(seconds)}" + (f", and {untimed} like which nothing was timed yet" if untimed else "")


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
        text = _board(folder)
    else:
        from leaderboard.frame import to_frame
        from leaderboard.markdown import to_csv, to_json

        text = (to_csv if format_ == "csv" else to_json)(to_frame(_records(folder)))
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
    from leaderboard.comparison import compare as compare_cells
    from leaderboard.frame import to_frame
    from leaderboard.markdown import render_comparison

    print(render_comparison(compare_cells(to_frame(_records(_found(out))), a, b, axis)))


@app.command()
def check(
    against: Annotated[Path, typer.Option("--against", help="The reference file.")],
    out: FoundOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the reference from this run instead.")
    ] = False,
) -> None:
    """Compare a run with a committed reference: exit code 1 where scores, or grossly costs, regressed."""
    from leaderboard import regression

    records = _records(_found(out))
    if update:
        regression.write_reference(against, regression.summarise(records))
        print(f"wrote {against} from {len(records)} records")
        return
    moves = regression.check(regression.read_reference(against), records)
    print(regression.render_moves(moves))
    if any(move.verdict in regression.BAD for move in moves):
        sys.exit(1)


@app.command(name="list")
def list_(
    axis: Annotated[str | None, typer.Argument(help="dataset, attack, backbone, ..., or suite.")] = None,
) -> None:
    """List the catalog: every part with its paper, and the suites."""
    from tabulate import tabulate

    from bench.catalog import COMPOSED, axes, listed

    if axis not in (None, "suite", *axes()):
        raise unknown("axis", str(axis), ("suite", *axes()))
    for name in axes() if axis is None else (axis,):
        if name == "suite":
            continue
        rows = [(part, *_described(name, part)) for part in sorted(listed(name))]
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
    from bench.catalog import describe

    try:
        found = describe(axis, part)
    except BenchError as error:
        return f"cannot be read: {error}", ""
    return found.summary, found.source


@app.command()
def show(
    axis: Annotated[str, typer.Argument(help="dataset, attack, backbone, ...")],
    name: Annotated[str, typer.Argument(help="The part's name.")],
) -> None:
    """Show one part: what it does, its paper, its parameters and their defaults."""
    from bench.catalog import COMPOSED

    for number, part in enumerate(name.split("+") if axis in COMPOSED else [name]):
        if number:
            print()
        _show(axis, part.strip())


def _show(axis: str, name: str) -> None:
    from tabulate import tabulate

    from bench.catalog import describe, locate

    found = describe(axis, name)
    print(f"{axis} {name}  ({locate(axis, name)})\n\n{found.docstring}\n")
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

    from bench.engine.conformance import TOTAL, render
    from bench.engine.conformance import conform as run_checks
    from bench.engine.trial import Trial

    torch.set_num_threads(1)
    trial = Trial(attack)
    verdicts = []
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(attack, total=TOTAL)
        for verdict in run_checks(trial):
            verdicts.append(verdict)
            progress.update(bar, advance=1, description=verdict.check)
    print(render(trial.choice.label, verdicts))
    if any(verdict.failure for verdict in verdicts):
        sys.exit(1)


@data.command(name="check")
def data_check(name: DatasetArgument, data_root: RootOption = None, cache: CacheOption = None) -> None:
    """Load a dataset and say what is in it: counts, rates, floors, labels that are missing, leaks."""
    from dataclasses import asdict

    from bench.catalog import Choice, load
    from bench.engine.datasheet import read_sheet, render_text

    label, loaded, _ = _load(name, data_root, _cache(cache))
    print(render_text(read_sheet(label, loaded)))
    recipe = asdict(load("dataset", Choice.parse(name).name).recipe)
    print("\nrecipe: " + ", ".join(f"{entry} = {value}" for entry, value in recipe.items() if value))


@data.command(name="prepare")
def data_prepare(name: DatasetArgument, data_root: RootOption = None, cache: CacheOption = None) -> None:
    """Decode a dataset's images once, so that no run waits for it."""
    from bench.engine.console import duration

    folder = _cache(cache)
    before = _kept(folder)
    label, loaded, seconds = _load(name, data_root, folder, notes=True)
    made = sorted(path for path, _ in _kept(folder) - before)
    splits = (loaded.train, loaded.test)
    size = sum(tensor.nbytes for split in splits for tensor in (split.images, *split.targets.values()))
    what = f"written to {', '.join(map(str, made))}" if made else "nothing was left to decode"
    print(
        f"{label}: {sum(map(len, splits)):,} images, {size / 1e6:,.1f} MB with their labels; {what} "
        f"({duration(seconds)})"
    )


@data.command(name="show")
def data_show(
    name: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")],
    data_root: RootOption = None,
    cache: CacheOption = None,
) -> None:
    """Write a web page, one file, with some of a dataset's images, their labels and all counts."""
    from bench.catalog import Choice, describe
    from bench.engine.datapage import render_page
    from bench.engine.datasheet import read_sheet

    label, loaded, _ = _load(name, data_root, _cache(cache))
    about = describe("dataset", Choice.parse(name).name)
    _write(output, render_page(read_sheet(label, loaded), loaded, about))
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

    from bench.catalog import Choice, make

    choice, root = Choice.parse(name), _root(data_root)
    dataset = make("dataset", choice)
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
    from bench.engine.tracking import default_uri, rebuild

    folder = _found(out)
    uri = tracking_uri or default_uri(folder)
    added, kept, replaced = rebuild(uri, _records(folder), folder)
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


def _records(folder: Path) -> "list[Record]":
    """Return a run's records; damaged ones are named and left out."""
    from bench.record import Record, read_records

    records = []
    for record in read_records(folder / "records"):
        if isinstance(record, Record):
            records.append(record)
        else:
            _say(f"note: {record}; it is left out, and `bench run` makes it again")
    if not records:
        raise BenchError(f"{folder / 'records'} has no record yet")
    return records


def _board(folder: Path) -> str:
    from bench.record import read_note
    from leaderboard.markdown import render

    return render(_records(folder), left_out=read_note(folder))


def _write(path: Path, text: str) -> None:
    from bench.record import write_atomically

    write_atomically(path, text if text.endswith("\n") else text + "\n")
