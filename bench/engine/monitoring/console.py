"""The console: a live display of a run on a terminal, plain lines elsewhere."""

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.engine.execution import events
from bench.engine.execution.events import Event, ItemFinished, ItemProgress, Listener
from bench.engine.monitoring.progress import ItemSnapshot, KindSnapshot, ProgressSnapshot, RunProgress
from bench.text import format_duration, to_one_line

STEP_LINE_EVERY_S = 30.0
"""Least time between two plain lines on the same item in progress."""

SUMMARY_EVERY_S = 300.0
"""Least time between two plain summaries of speed, memory and best attack."""

WIDE_COLUMNS = 100
"""Number of columns from which a terminal can show the speed of every item."""

BAR_COLUMNS = 30

StyledLine = tuple[str, str]
"""A line and its style for a terminal."""


@contextmanager
def show_progress(progress: RunProgress, stream: TextIO | None = None) -> Iterator[Listener]:
    """Show a run on ``stream``: a live display if it is a terminal, plain lines otherwise.

    Args:
        progress: what to show; it must receive every event before the listener that is yielded.
        stream: where to write; standard error by default.
    """
    stream = stream or sys.stderr
    console = Console(file=stream, highlight=False, force_terminal=stream.isatty() or None)
    if not stream.isatty() or console.is_dumb_terminal:
        yield _LineReporter(lambda text, _: print(text, file=stream, flush=True), progress, every_item=True)
        return
    # What others print belongs above the display, but a standard output that is a file must stay as it is.
    with Live(
        console=console,
        get_renderable=lambda: render_snapshot(progress.snapshot(), console.width),
        refresh_per_second=4,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield _LineReporter(lambda text, style: console.print(Text(text, style)), progress, every_item=False)


@contextmanager
def show_activity(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Say on standard error what is going on within the block; on a terminal only until it ends."""
    stream = stream or sys.stderr
    console = Console(file=stream, highlight=False, force_terminal=stream.isatty() or None)
    if stream.isatty() and not console.is_dumb_terminal:
        with console.status(Text(to_one_line(what))):
            yield
    else:
        print(to_one_line(what), file=stream, flush=True)
        yield


def render_snapshot(snapshot: ProgressSnapshot, width: int) -> RenderableType:
    """Return what is left to make, its speed and the items in progress; an empty text if nothing is left."""
    kinds = [kind for kind in snapshot.kinds if not kind.ended]
    if not kinds:
        return Text()
    summary = (
        Text(f"  {line}", "dim", no_wrap=True, overflow="ellipsis")
        for line in _summary_lines(snapshot, kinds)
    )
    return Group(
        _kind_table(kinds, width), *summary, Padding(_item_table(snapshot.items, width), (0, 0, 0, 2))
    )


def _kind_table(kinds: Sequence[KindSnapshot], width: int) -> RenderableType:
    columns = [
        [Text(_kind_count(kind), "bold") for kind in kinds],
        [Text(f"{kind.cached} cached") for kind in kinds],
        [Text(f"{kind.failed} failed" if kind.failed else "", "bold red") for kind in kinds],
        [Text(_time_left(kind.left_s)) for kind in kinds],
    ]
    columns = [column for column in columns if any(column)]
    room = width - sum(max(text.cell_len for text in column) + 2 for column in columns)
    bars = [
        ProgressBar(total=kind.todo, completed=kind.finished, width=max(1, min(BAR_COLUMNS, room)))
        for kind in kinds
    ]
    table = Table.grid(padding=(0, 2))
    for _ in range(len(columns) + 1):
        table.add_column(no_wrap=True)
    for count, bar, *others in zip(columns[0], bars, *columns[1:], strict=True):
        table.add_row(count, bar, *others)
    return table


def _item_table(items: Sequence[ItemSnapshot], width: int) -> RenderableType:
    wide = width >= WIDE_COLUMNS
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    if wide:
        table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right", min_width=len("~59 min left"))
    for item in items:
        speed = [Text(_item_speed(item), "dim")] if wide else []
        step = to_one_line(f"{item.what} {item.done}/{item.total}")
        table.add_row(Text(to_one_line(item.label)), Text(step), *speed, Text(_time_left(item.left_s), "dim"))
    return table


def _kind_count(kind: KindSnapshot) -> str:
    return to_one_line(f"{kind.name} {kind.finished}/{kind.todo}")


def _time_left(seconds: float | None) -> str:
    """Return an estimate no finer than it is known; nothing if it is used up while the work goes on."""
    if seconds is None or seconds < 1:
        return ""
    rounded = f"{math.ceil(seconds)} s" if seconds < 60 else format_duration(60 * round(seconds / 60))
    return f"~{rounded} left"


def _item_speed(item: ItemSnapshot) -> str:
    if not item.pace_s:
        return ""
    what = to_one_line(item.what)
    return (
        f"{format_duration(item.pace_s)}/{what}" if item.pace_s >= 1 else f"{1 / item.pace_s:,.1f} {what}/s"
    )


def _summary_lines(snapshot: ProgressSnapshot, kinds: Sequence[KindSnapshot]) -> list[str]:
    """Return the speeds of some kinds and the memory in one line, the leading attack in another, if known."""
    memory = snapshot.memory_mib
    speeds = [_kind_speed(kind) for kind in kinds if kind.per_minute]
    speeds += [f"{kind.images_per_s:,.0f} images/s" for kind in kinds if kind.images_per_s]
    if len(memory) == 1:
        speeds.append(f"{memory[0]:,.0f} MiB in one process")
    elif memory:
        speeds.append(f"{len(memory)} workers, {min(memory):,.0f} to {max(memory):,.0f} MiB each")
    lines = [" · ".join(speeds)] if speeds else []
    if snapshot.best is not None:
        attack, protection, count = snapshot.best
        cells = f"{count} cell{'s' * (count != 1)}"
        lines.append(f"best so far: {to_one_line(attack)}, protection {protection:.2f} ({cells})")
    return lines


def _kind_speed(kind: KindSnapshot) -> str:
    """Return how long one item takes, or how many are made per second if that is shorter."""
    per_second = (kind.per_minute or 0.0) / 60
    if per_second > 1:
        return f"{per_second:,.1f} {to_one_line(kind.name)}/s"
    seconds, item = 1 / per_second, {"purified": "purified set"}.get(kind.name, kind.name.removesuffix("s"))
    duration = format_duration(seconds) if seconds < 9.95 or seconds >= 59.5 else f"{seconds:.0f} s"
    return f"one {to_one_line(item)} every {duration}"


class _LineReporter:
    """A listener that writes a line for each event that deserves one; events come from any thread."""

    def __init__(self, write: Callable[[str, str], None], progress: RunProgress, *, every_item: bool) -> None:
        self._write = write
        self._progress = progress
        self._every_item = every_item
        self._lock = threading.Lock()
        self._last_line_s: dict[str, float] = {}  # key of an item in progress → time of its last line
        self._last_summary_s = 0.0

    def __call__(self, event: Event) -> None:
        with self._lock:
            for text, style in self._lines(event):
                self._write(to_one_line(text), style)

    def _lines(self, event: Event) -> Iterator[StyledLine]:
        match event:
            case events.RunStarted():
                yield f"suite {event.suite}, results in {event.out}", "bold"
                for kind, (todo, cached) in event.counts.items():
                    common = str(self._progress.short_labels(kind))
                    if self._every_item:
                        yield f"{kind}: {todo} to do, {cached} cached" + (common and f"; all: {common}"), ""
                    elif common:
                        yield f"all {kind}: {common}", "dim"
            case events.ItemProgress() if self._every_item:
                yield from self._step_lines(event, self._progress.snapshot())
            case events.ItemFinished():
                yield from self._item_lines(event, self._progress.snapshot())
            case events.RunFinished():
                cells = f"cells: {event.done} done, {event.cached} cached, {event.failed} failed"
                style = "bold red" if event.failed else "bold green"
                yield f"{cells} in {format_duration(event.seconds)}", style
            case events.Notice():
                yield f"note: {event.message}", "yellow"

    def _step_lines(self, event: ItemProgress, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        kind, now = snapshot.of(event.kind), snapshot.seconds
        if kind is None or event.key not in [item.key for item in snapshot.items]:
            return
        if now - self._last_line_s.setdefault(event.key, now) >= STEP_LINE_EVERY_S:
            self._last_line_s[event.key] = now
            step = f"{event.what} {event.done}/{event.total}"
            label = self._progress.short_labels(event.kind).shorten(event.label)
            yield _columns(_kind_count(kind), label, step, _time_left(kind.left_s)), ""
            yield from self._summary(snapshot)

    def _item_lines(self, event: ItemFinished, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        kind = snapshot.of(event.kind)
        self._last_line_s.pop(event.key, None)
        if kind is None:
            return
        label = self._progress.short_labels(event.kind).shorten(event.label)
        if event.error is not None:
            yield _columns(_kind_count(kind), f"FAILED {label}: {event.error}"), "bold red"
        elif self._every_item:
            left = "" if kind.ended else _time_left(kind.left_s)
            took = format_duration(event.seconds) if event.seconds else "made by another run"
            yield _columns(_kind_count(kind), label, took, left), ""
        if kind.ended:
            yield from self._end_lines(kind, snapshot)
        else:
            yield from self._summary(snapshot)

    def _end_lines(self, kind: KindSnapshot, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        if self._every_item:
            yield from ((line, "") for line in _summary_lines(snapshot, [kind]))
        elif kind.name != "cells":  # the summary of the run follows the cells
            failed = f", {kind.failed} failed" if kind.failed else ""
            done, duration = kind.finished - kind.failed, format_duration(kind.seconds)
            yield f"{kind.name}: {done} done, {kind.cached} cached{failed} in {duration}", ""

    def _summary(self, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        if self._every_item and snapshot.seconds - self._last_summary_s >= SUMMARY_EVERY_S:
            self._last_summary_s = snapshot.seconds
            active = [kind for kind in snapshot.kinds if not kind.ended]
            yield from ((line, "") for line in _summary_lines(snapshot, active))


def _columns(*cells: str) -> str:
    return "  ".join(filter(None, cells))
