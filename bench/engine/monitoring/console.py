"""The console: a run's events as a live display on a terminal, as plain lines elsewhere."""

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

QUIET_S = 30.0
"""Plain lines tell of an item in progress no more often than this."""

SUMMARY_S = 300.0
"""Plain lines tell of the speed, the memory and the best attack no more often than this."""

WIDE_TERMINAL = 100
"""Columns of a terminal from which on there is room for every item's speed."""

BAR = 30
"""Columns of the bar."""

Line = tuple[str, str]
"""A line and its style; plain lines have none."""


@contextmanager
def show_progress(course: RunProgress, stream: TextIO | None = None) -> Iterator[Listener]:
    """Show a run on ``stream``: a live display where it is a terminal, plain lines otherwise.

    Args:
        course: told of every event, and asked for what is shown.
        stream: where to write; standard error by default.
    """
    stream = stream or sys.stderr
    screen = Console(file=stream, highlight=False, force_terminal=stream.isatty() or None)
    if not stream.isatty() or screen.is_dumb_terminal:
        yield _LineReporter(lambda text, _: _write_line(stream, text), course, every_item=True)
        return
    report = _LineReporter(lambda text, style: screen.print(Text(text, style)), course, every_item=False)
    # What others print belongs above the display, but must not leave a standard output that is a file.
    with Live(
        console=screen,
        get_renderable=lambda: render_snapshot(course.view(), screen.width),
        refresh_per_second=4,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield report


def render_snapshot(view: ProgressSnapshot, width: int) -> RenderableType:
    """Return the wave under way, its speed and its items, for so many columns; nothing between two waves."""
    if view.wave is None:
        return Text()
    facts = (Text(f"  {fact}", "dim", no_wrap=True, overflow="ellipsis") for fact in _facts(view))
    return Group(_head(view.wave, width), *facts, Padding(_items(view.wave, width), (0, 0, 0, 2)))


def _head(wave: WaveSnapshot, width: int) -> RenderableType:
    count = Text(_count(wave), "bold")
    told = [Text(f"{wave.cached} cached")]
    told += [Text(f"{wave.failed} failed", "bold red")] if wave.failed else []
    told += [Text(_left(wave.left_s))]
    room = width - sum(text.cell_len + 2 for text in (count, *told))
    bar = ProgressBar(total=max(1, wave.todo), completed=wave.finished, width=max(1, min(BAR, room)))
    head = Table.grid(padding=(0, 2))
    for _ in (count, bar, *told):
        head.add_column(no_wrap=True)
    head.add_row(count, bar, *told)
    return head


def _items(wave: WaveSnapshot, width: int) -> RenderableType:
    body = Table.grid(padding=(0, 2), expand=True)
    body.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    body.add_column(no_wrap=True)
    if width >= WIDE_TERMINAL:
        body.add_column(no_wrap=True, justify="right")
    body.add_column(no_wrap=True, justify="right", min_width=len("~59 min left"))
    for item in wave.items:
        speed = [Text(_speed(item), "dim")] if width >= WIDE_TERMINAL else []
        body.add_row(
            Text(to_one_line(item.label)), Text(_step(item)), *speed, Text(_left(item.left_s), "dim")
        )
    return body


def _count(wave: WaveSnapshot) -> str:
    return to_one_line(f"{wave.name} {wave.finished}/{wave.todo}")


def _step(item: ItemSnapshot) -> str:
    return to_one_line(f"{item.what} {item.done}/{item.total}")


def _left(seconds: float | None) -> str:
    """Spell an estimate no finer than it is known."""
    if not seconds:
        return ""
    return (
        f"~{math.ceil(seconds)} s left"
        if seconds < 60
        else f"~{format_duration(60 * round(seconds / 60))} left"
    )


def _speed(item: ItemSnapshot) -> str:
    if not item.pace_s:
        return ""
    what = to_one_line(item.what)
    return (
        f"{format_duration(item.pace_s)}/{what}" if item.pace_s >= 1 else f"{1 / item.pace_s:,.1f} {what}/s"
    )


def _facts(view: ProgressSnapshot) -> list[str]:
    """Say how fast the wave goes and what memory it takes, then which attack leads, as far as known."""
    speed = []
    wave, memory = view.wave, view.memory_mib
    if wave is not None and wave.per_minute:
        count, unit = (wave.per_minute, "min") if wave.per_minute >= 1 else (60 * wave.per_minute, "h")
        speed.append(f"{count:,.1f} {to_one_line(wave.name)}/{unit}")
    if wave is not None and wave.images_per_s:
        speed.append(f"{wave.images_per_s:,.0f} images/s")
    if len(memory) == 1:
        speed.append(f"{memory[0]:,.0f} MiB in one process")
    elif memory:
        speed.append(f"{len(memory)} workers, {min(memory):,.0f} to {max(memory):,.0f} MiB each")
    facts = [" · ".join(speed)] if speed else []
    if view.best is not None:
        attack, protection, cells = view.best
        facts.append(
            f"best so far: {to_one_line(attack)}, protection {protection:.2f} "
            f"({cells} cell{'s' * (cells != 1)})"
        )
    return facts


def _write_line(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


class _LineReporter:
    """The listener: passes the events on to the course, and writes the lines that are worth one.

    Events come from any thread and the display redraws from its own. A line is written after the lock is
    given back, since the display holds its own lock while it redraws.
    """

    def __init__(self, write: Callable[[str, str], None], course: RunProgress, *, every_item: bool) -> None:
        self._write = write
        self._course = course
        self._every_item = every_item
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}  # key of an item under way → when a line last told of it
        self._summed_up = course.clock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            ended = self._course.view() if isinstance(event, events.WaveFinished) else None
            lines = self._lines(event, ended) if self._course.take(event) else []
        for text, style in lines:
            self._write(to_one_line(text), style)

    def _lines(self, event: Event, ended: ProgressSnapshot | None) -> list[Line]:
        lines: list[Line] = []
        match event:
            case events.RunStarted():
                lines = [(f"suite {event.suite}, results in {event.out}", "bold")]
            case events.WaveStarted() if self._every_item:
                lines = [(f"{event.wave}: {event.todo} to do, {event.cached} cached", "")]
            case events.ItemProgress() if self._every_item:
                lines = self._progress(event)
            case events.ItemFinished():
                lines = self._finish(event)
            case events.WaveFinished():
                lines = self._end_wave(ended)
            case events.RunFinished():
                cells = f"cells: {event.done} done, {event.cached} cached, {event.failed} failed"
                style = "bold red" if event.failed else "bold green"
                lines = [(f"{cells} in {format_duration(event.seconds)}", style)]
            case events.Notice():
                lines = [(f"note: {event.message}", "yellow")]
        return lines

    def _progress(self, event: ItemProgress) -> list[Line]:
        now = self._course.clock()
        wave = self._course.view().wave
        if wave is None or now - self._told.setdefault(event.key, now) < QUIET_S:
            return []
        self._told[event.key] = now
        step = f"{event.what} {event.done}/{event.total}"
        return [(_columns(_count(wave), event.label, step, _left(wave.left_s)), ""), *self._sum_up()]

    def _finish(self, event: ItemFinished) -> list[Line]:
        wave = self._course.view().wave
        self._told.pop(event.key, None)
        if wave is None:
            return []
        if event.error is not None:
            return [(_columns(_count(wave), f"FAILED {event.label}: {event.error}"), "bold red")]
        if not self._every_item:
            return []
        left = _left(wave.left_s) if wave.finished < wave.todo else ""
        took = format_duration(event.seconds) if event.seconds else "made by another run"
        return [(_columns(_count(wave), event.label, took, left), ""), *self._sum_up()]

    def _sum_up(self) -> list[Line]:
        now = self._course.clock()
        if now - self._summed_up < SUMMARY_S:
            return []
        self._summed_up = now
        return [(fact, "") for fact in _facts(self._course.view())]

    def _end_wave(self, view: ProgressSnapshot | None) -> list[Line]:
        wave = view.wave if view else None
        if view is None or wave is None:
            return []
        if self._every_item:
            return [(fact, "") for fact in _facts(view)] if wave.finished else []
        # The run's own summary follows the cells.
        if wave.name == "cells":
            return []
        failed = f", {wave.failed} failed" if wave.failed else ""
        done = wave.finished - wave.failed
        return [
            (f"{wave.name}: {done} done, {wave.cached} cached{failed} in {format_duration(wave.seconds)}", "")
        ]


def _columns(*cells: str) -> str:
    return "  ".join(filter(None, cells))
