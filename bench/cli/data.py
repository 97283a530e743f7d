"""``bench data``: check a dataset, prepare it for runs, or look at it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_result
from bench.cli.run_setup import resolve_cache, resolve_data_root
from bench.errors import name_foreign_errors
from bench.files import write_output
from bench.table import fill_paragraphs, terminal_width
from bench.text import format_duration

if TYPE_CHECKING:
    from bench.api import MultiTaskData

app = typer.Typer(help="Check a dataset, prepare it for runs, or look at it.", no_args_is_help=True)


@app.command("check")
def check_dataset(
    name: options.DatasetArgument,
    data_root: options.DataRootOption = None,
    cache: options.CacheOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Load a dataset and describe it: counts, rates, floors, missing labels, leaks."""
    from dataclasses import asdict

    from bench.catalog.build import load_part_class
    from bench.catalog.choice import Choice
    from bench.dataset_report.statistics import compute_statistics
    from bench.dataset_report.text import render_text

    label, dataset, _ = load_with_progress(name, data_root, resolve_cache(cache))
    statistics = compute_statistics(label, dataset)
    recipe = asdict(load_part_class("dataset", Choice.parse(name).name).recipe)
    if json_:
        print_json({**asdict(statistics), "recipe": recipe})
        return
    width = terminal_width()
    print_result(render_text(statistics, width))
    entries = ", ".join(f"{key} = {value}" for key, value in recipe.items() if value)
    print_result("\n" + fill_paragraphs(f"recipe: {entries}", width))


@app.command("prepare")
def prepare_dataset(
    name: options.DatasetArgument,
    data_root: options.DataRootOption = None,
    cache: options.CacheOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Decode the images of a dataset once, so that no run has to wait for it."""
    folder = resolve_cache(cache)
    before = decoded_folders(folder)
    label, dataset, seconds = load_with_progress(name, data_root, folder, warn=True)
    new = sorted(path for path, _ in decoded_folders(folder) - before)
    splits = (dataset.train, dataset.test)
    size = sum(tensor.nbytes for split in splits for tensor in (split.images, *split.targets.values()))
    images = sum(map(len, splits))
    if json_:
        print_json(
            {"dataset": label, "images": images, "bytes": size, "written": map(str, new), "seconds": seconds}
        )
        return
    result = f"written to {', '.join(map(str, new))}" if new else "nothing was left to decode"
    sentence = (
        f"{label}: {images:,} images, {size / 1e6:,.1f} MB with their labels; {result} "
        f"({format_duration(seconds)})"
    )
    print_result(fill_paragraphs(sentence, terminal_width()))


@app.command("show")
def show_dataset(
    name: options.DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file to write.")],
    data_root: options.DataRootOption = None,
    cache: options.CacheOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Write a web page with images of a dataset, their labels and all counts, in one file."""
    from bench.catalog.choice import Choice
    from bench.catalog.description import describe_part
    from bench.dataset_report.html import render_page
    from bench.dataset_report.statistics import compute_statistics

    label, dataset, _ = load_with_progress(name, data_root, resolve_cache(cache))
    description = describe_part("dataset", Choice.parse(name).name)
    write_output(output, render_page(compute_statistics(label, dataset), dataset, description))
    if json_:
        print_json({"dataset": label, "written": output})
    else:
        print_result(f"wrote {output}")


def load_with_progress(
    name: str, data_root: Path | None, cache: Path, *, warn: bool = False
) -> "tuple[str, MultiTaskData, float]":
    """Return a dataset's canonical name, its data and the seconds that loading took, and show progress.

    Its warnings are logged only if ``warn`` is set: a report includes them.
    """
    from time import perf_counter

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bench.catalog.build import build_part
    from bench.catalog.choice import Choice

    choice, root = Choice.parse(name), resolve_data_root(data_root)
    dataset = build_part("dataset", choice)
    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(choice.label, total=None)

        def advance(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        started = perf_counter()
        quiet = nullcontext() if warn else no_warnings()
        with name_foreign_errors(f"cannot load the dataset {choice.label}"), quiet:
            data = dataset.load(root, cache, advance)
        return choice.label, data, perf_counter() - started


@contextmanager
def no_warnings() -> Iterator[None]:
    """Suppress the package's warnings within the block."""
    logger = logging.getLogger("bench")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def decoded_folders(cache: Path) -> set[tuple[Path, int]]:
    """Return the folders of decoded images, each with the time of its last change."""
    return {(path, path.stat().st_mtime_ns) for path in cache.glob("[!.]*") if path.is_dir()}
