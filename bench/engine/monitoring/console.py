"""The console: a live display of a run on a terminal, plain lines elsewhere."""

import math
import sys
import threading
from collections.abc import Callable, Iterator
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
from bench.engine.monitoring.progress import ItemSnapshot, ProgressSnapshot, RunProgress, WaveSnapshot
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


def render_snapshot(snapshot: ProgressSnapshot, width: int) -> RenderableType:
    """Return the wave in progress, its speed and its items; an empty text if no wave is in progress."""
    wave = snapshot.wave
    if wave is None or wave.ended:
        return Text()
    summary = (
        Text(f"  {line}", "dim", no_wrap=True, overflow="ellipsis") for line in _summary_lines(snapshot)
    )
    return Group(_wave_row(wave, width), *summary, Padding(_item_table(wave, width), (0, 0, 0, 2)))


def _wave_row(wave: WaveSnapshot, width: int) -> RenderableType:
    texts = [Text(_wave_count(wave), "bold"), Text(f"{wave.cached} cached")]
    texts += [Text(f"{wave.failed} failed", "bold red")] if wave.failed else []
    texts += [Text(_time_left(wave.left_s))]
    room = width - sum(text.cell_len + 2 for text in texts)
    bar = ProgressBar(total=max(1, wave.todo), completed=wave.finished, width=max(1, min(BAR_COLUMNS, room)))
    row = Table.grid(padding=(0, 2))
    for _ in range(len(texts) + 1):
        row.add_column(no_wrap=True)
    row.add_row(texts[0], bar, *texts[1:])
    return row


def _item_table(wave: WaveSnapshot, width: int) -> RenderableType:
    wide = width >= WIDE_COLUMNS
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    if wide:
        table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right", min_width=len("~59 min left"))
    for item in wave.items:
        speed = [Text(_item_speed(item), "dim")] if wide else []
        step = to_one_line(f"{item.what} {item.done}/{item.total}")
        table.add_row(Text(to_one_line(item.label)), Text(step), *speed, Text(_time_left(item.left_s), "dim"))
    return table


def _wave_count(wave: WaveSnapshot) -> str:
    return to_one_line(f"{wave.name} {wave.finished}/{wave.todo}")


def _time_left(seconds: float | None) -> str:
    """Return an estimate no finer than it is known."""
    if not seconds:
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


def _summary_lines(snapshot: ProgressSnapshot) -> list[str]:
    """Return the speed of the wave and its memory in one line, the leading attack in another, if known."""
    wave, memory = snapshot.wave, snapshot.memory_mib
    speeds = []
    if wave is not None and wave.per_minute:
        count, unit = (wave.per_minute, "min") if wave.per_minute >= 1 else (60 * wave.per_minute, "h")
        speeds.append(f"{count:,.1f} {to_one_line(wave.name)}/{unit}")
    if wave is not None and wave.images_per_s:
        speeds.append(f"{wave.images_per_s:,.0f} images/s")
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
            case events.WaveStarted() if self._every_item:
                yield f"{event.wave}: {event.todo} to do, {event.cached} cached", ""
            case events.ItemProgress() if self._every_item:
                yield from self._step_lines(event, self._progress.snapshot())
            case events.ItemFinished():
                yield from self._item_lines(event, self._progress.snapshot())
            case events.WaveFinished():
                yield from self._wave_lines(self._progress.snapshot())
            case events.RunFinished():
                cells = f"cells: {event.done} done, {event.cached} cached, {event.failed} failed"
                style = "bold red" if event.failed else "bold green"
                yield f"{cells} in {format_duration(event.seconds)}", style
            case events.Notice():
                yield f"note: {event.message}", "yellow"

    def _step_lines(self, event: ItemProgress, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        wave, now = snapshot.wave, snapshot.seconds
        if wave is None or event.key not in [item.key for item in wave.items]:
            return
        if now - self._last_line_s.setdefault(event.key, now) >= STEP_LINE_EVERY_S:
            self._last_line_s[event.key] = now
            step = f"{event.what} {event.done}/{event.total}"
            yield _columns(_wave_count(wave), event.label, step, _time_left(wave.left_s)), ""
            yield from self._summary(snapshot)

    def _item_lines(self, event: ItemFinished, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        wave = snapshot.wave
        self._last_line_s.pop(event.key, None)
        if wave is None or wave.ended or wave.name != event.wave:
            return
        if event.error is not None:
            yield _columns(_wave_count(wave), f"FAILED {event.label}: {event.error}"), "bold red"
        elif self._every_item:
            left = _time_left(wave.left_s) if wave.finished < wave.todo else ""
            took = format_duration(event.seconds) if event.seconds else "made by another run"
            yield _columns(_wave_count(wave), event.label, took, left), ""
            yield from self._summary(snapshot)

    def _summary(self, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        if snapshot.seconds - self._last_summary_s >= SUMMARY_EVERY_S:
            self._last_summary_s = snapshot.seconds
            yield from ((line, "") for line in _summary_lines(snapshot))

    def _wave_lines(self, snapshot: ProgressSnapshot) -> Iterator[StyledLine]:
        wave = snapshot.wave
        if wave is None:
            return
        if self._every_item:
            yield from ((line, "") for line in _summary_lines(snapshot) if wave.finished)
        elif wave.name != "cells":  # the summary of the run follows the cells
            failed = f", {wave.failed} failed" if wave.failed else ""
            done, duration = wave.finished - wave.failed, format_duration(wave.seconds)
            yield f"{wave.name}: {done} done, {wave.cached} cached{failed} in {duration}", ""


def _columns(*cells: str) -> str:
    return "  ".join(filter(None, cells))
