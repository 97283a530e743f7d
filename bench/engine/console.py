"""The console: a run's events as a live display on a terminal, as plain lines elsewhere."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.engine import events
from bench.engine.events import Event, ItemFinished, ItemProgress, Listener

QUIET_S = 30.0
"""Plain lines tell of an item in progress no more often than this."""

Line = tuple[str, str]
"""A line and its style; plain lines have none."""


@contextmanager
def console(stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> Iterator[Listener]:
    """Show a run on ``stream``: a live display where it is a terminal, plain lines otherwise.

    Args:
        stream: where to write; standard error by default.
        clock: the time in seconds, from which the time left is estimated.
    """
    stream = stream or sys.stderr
    screen = Console(file=stream, highlight=False, force_terminal=stream.isatty() or None)
    if not stream.isatty() or screen.is_dumb_terminal:
        yield _Report(lambda text, _: _write_line(stream, text), clock, every_item=True)
        return
    report = _Report(lambda text, style: screen.print(Text(text, style)), clock, every_item=False)
    # What others print belongs above the display, but must not leave a standard output that is a file.
    with Live(
        console=screen,
        get_renderable=report.render,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield report


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``31.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``1 d 3 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    pieces: list[tuple[int, str]] = []
    rest = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or pieces:
            pieces.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in pieces[:2] if count)


def _left(seconds: float | None) -> str:
    """Spell an estimate no finer than it is known."""
    if not seconds:
        return ""
    return f"~{math.ceil(seconds)} s left" if seconds < 60 else f"~{duration(60 * round(seconds / 60))} left"


def _write_line(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


@dataclass
class _Item:
    """An item in progress; times are the clock's.

    Its time left is that of what it does now, at the pace it has had since that began: an item may first
    train a surrogate and then craft, and the one says nothing of the other's pace.
    """

    label: str
    started: float
    told: float
    began: float
    first: int
    what: str = ""
    done: int = 0
    total: int = 0
    reached: float = 0.0

    def advance(self, event: ItemProgress, now: float) -> None:
        if event.what != self.what or event.done < self.done:
            self.began, self.first = now, event.done
        self.what, self.done, self.total, self.reached = event.what, event.done, event.total, now

    def left(self, now: float) -> float | None:
        steps = self.done - self.first
        if steps <= 0:
            return None
        pace = (self.reached - self.began) / steps
        return max(0.0, pace * (self.total - self.done) - (now - self.reached))

    @property
    def step(self) -> str:
        return f"{self.what} {self.done}/{self.total}"


@dataclass
class _Wave:
    """A wave in progress: what the events said of it so far."""

    name: str
    todo: int
    cached: int
    started: float
    failed: int = 0
    parallel: int = 1
    seconds: list[float] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    running: dict[str, _Item] = field(default_factory=dict)

    def progress(self, event: ItemProgress, now: float) -> _Item | None:
        """Note an item's step; None where the item is finished and its worker's word came late."""
        if event.key in self.finished:
            return None
        item = self.running.setdefault(event.key, _Item(event.label, now, now, now, event.done))
        item.advance(event, now)
        self.parallel = max(self.parallel, len(self.running))
        return item

    def finish(self, event: ItemFinished) -> None:
        self.finished.add(event.key)
        self.running.pop(event.key, None)
        if event.error is None:
            self.seconds.append(event.seconds)
        else:
            self.failed += 1

    def left(self, now: float) -> float | None:
        """Return the seconds left, None while no item has shown how long it takes.

        What is left of the items in progress and all of the waiting ones, shared by as many as have run at
        once, but no less than the longest item in progress.
        """
        known = [now - i.started + rest for i in self.running.values() if (rest := i.left(now)) is not None]
        measured = self.seconds or known
        if not measured:
            return None
        typical = fmean(measured)
        rests = [max(i.left(now) or 0.0, typical - (now - i.started)) for i in self.running.values()]
        waiting = max(0, self.todo - len(self.finished) - len(self.running))
        return max([(sum(rests) + waiting * typical) / self.parallel, *rests])

    @property
    def count(self) -> str:
        return f"{self.name} {len(self.finished)}/{self.todo}"

    def render(self, now: float) -> RenderableType:
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(1, self.todo), completed=len(self.finished), width=30)
        failed = Text(f"{self.failed} failed" if self.failed else "", "bold red")
        head.add_row(Text(self.count, "bold"), bar, f"{self.cached} cached", failed, _left(self.left(now)))
        body = Table.grid(padding=(0, 2), expand=True)
        body.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        body.add_column(no_wrap=True)
        body.add_column(no_wrap=True, justify="right", min_width=len("~59 min left"))
        for item in self.running.values():
            body.add_row(Text(_one_line(item.label)), Text(item.step), Text(_left(item.left(now)), "dim"))
        return Group(head, Padding(body, (0, 0, 0, 2)))


class _Report:
    """The listener: keeps what the events said, and writes the lines that are worth one.

    Events come from any thread and the display redraws from its own. A line is written after the lock is
    given back, since the display holds its own lock while it asks for `render`.
    """

    def __init__(
        self, write: Callable[[str, str], None], clock: Callable[[], float], *, every_item: bool
    ) -> None:
        self._write = write
        self._clock = clock
        self._every_item = every_item
        self._lock = threading.Lock()
        self._wave: _Wave | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            line = self._take(event, self._clock())
        if line is not None:
            self._write(_one_line(line[0]), line[1])

    def render(self) -> RenderableType:
        with self._lock:
            return self._wave.render(self._clock()) if self._wave else Text()

    def _take(self, event: Event, now: float) -> Line | None:
        line: Line | None = None
        match event:
            case events.RunStarted():
                line = f"suite {event.suite}, results in {event.out}", "bold"
            case events.WaveStarted():
                self._wave = _Wave(event.wave, event.todo, event.cached, now)
                if self._every_item:
                    line = f"{event.wave}: {event.todo} to do, {event.cached} cached", ""
            case events.ItemProgress():
                line = self._progress(event, now)
            case events.ItemFinished():
                line = self._finish(event, now)
            case events.WaveFinished():
                line = self._end_wave(now)
            case events.RunFinished():
                cells = f"cells: {event.done} done, {event.cached} cached, {event.failed} failed"
                line = f"{cells} in {duration(event.seconds)}", "bold red" if event.failed else "bold green"
            case events.Notice():
                line = f"note: {event.message}", "yellow"
        return line

    def _progress(self, event: ItemProgress, now: float) -> Line | None:
        wave = self._wave
        item = wave.progress(event, now) if wave and wave.name == event.wave else None
        if wave is None or item is None or not self._every_item or now - item.told < QUIET_S:
            return None
        item.told = now
        return _columns(wave.count, item.label, item.step, _left(wave.left(now))), ""

    def _finish(self, event: ItemFinished, now: float) -> Line | None:
        wave = self._wave
        if wave is None or wave.name != event.wave:
            return None
        wave.finish(event)
        if event.error is not None:
            return _columns(wave.count, f"FAILED {event.label}: {event.error}"), "bold red"
        if not self._every_item:
            return None
        over = len(wave.finished) >= wave.todo
        left = "" if over else _left(wave.left(now))
        return _columns(wave.count, event.label, duration(event.seconds), left), ""

    def _end_wave(self, now: float) -> Line | None:
        wave, self._wave = self._wave, None
        # The run's own summary follows the cells.
        if wave is None or self._every_item or wave.name == "cells":
            return None
        failed = f", {wave.failed} failed" if wave.failed else ""
        done = len(wave.finished) - wave.failed
        return f"{wave.name}: {done} done, {wave.cached} cached{failed} in {duration(now - wave.started)}", ""


def _columns(*cells: str) -> str:
    return "  ".join(filter(None, cells))


def _one_line(text: str) -> str:
    """Keep a message from breaking the line or steering the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
