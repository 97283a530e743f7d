"""The events of a run. The runner knows no display and no tracker: it only emits events to listeners."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.record import Record

if TYPE_CHECKING:  # importing cells imports torch, which commands that only show a run do not need
    from bench.engine.planning.cell import Wave


@dataclass(frozen=True)
class RunStarted:
    """A run begins; ``out`` is its folder, ``waves`` counts the items (to do, already made) per wave."""

    suite: str
    out: str
    waves: "dict[Wave, tuple[int, int]]"


@dataclass(frozen=True)
class WaveStarted:
    """A wave begins: the numbers of items to make and of items that are already made."""

    wave: "Wave"
    todo: int
    cached: int


@dataclass(frozen=True)
class ItemProgress:
    """An item has reached step ``done`` of ``total`` (``what``: ``epoch``, ``round``, ...).

    The first event of an item is its start. Workers report at most a few times per second.
    """

    wave: "Wave"
    key: str
    label: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class ItemFinished:
    """An item is finished and saved; with the record of a cell, and the one-line error of a failed item."""

    wave: "Wave"
    key: str
    label: str
    seconds: float
    record: Record | None = None
    error: str | None = None


@dataclass(frozen=True)
class WaveFinished:
    """A wave ended."""

    wave: "Wave"


@dataclass(frozen=True)
class RunFinished:
    """The run ended: cells done in it, cells already made, cells that failed."""

    done: int
    cached: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Notice:
    """One sentence the user should read: a damaged file is rebuilt, a tracker is not reachable."""

    message: str


Event = RunStarted | WaveStarted | ItemProgress | ItemFinished | WaveFinished | RunFinished | Notice
Listener = Callable[[Event], None]
