"""What a run tells its listeners. The runner knows no display and no tracker: it only emits these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.record import Record

if TYPE_CHECKING:  # cells import torch, and who only shows a run does without it
    from bench.engine.planning.cell import Wave


@dataclass(frozen=True)
class RunStarted:
    """A run begins; ``out`` is its folder, the counts are (to do, already there) per wave."""

    suite: str
    out: str
    waves: "dict[Wave, tuple[int, int]]"


@dataclass(frozen=True)
class WaveStarted:
    """A wave begins: so many things are to be made, so many are there already."""

    wave: "Wave"
    todo: int
    cached: int


@dataclass(frozen=True)
class ItemProgress:
    """An item is at step ``done`` of ``total`` of what it does now (``epoch``, ``round``, ...).

    The first one of an item is its start. Comes from a worker process, so at any time and rarely.
    """

    wave: "Wave"
    key: str
    label: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class ItemFinished:
    """An item is finished and saved; a cell brings its record, and a failed item its one-line error."""

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
    """The run ended: cells done in it, cells that were there, cells that failed."""

    done: int
    cached: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Notice:
    """One sentence the user should read: a damaged file that is rebuilt, a tracker that is away."""

    message: str


Event = RunStarted | WaveStarted | ItemProgress | ItemFinished | WaveFinished | RunFinished | Notice
Listener = Callable[[Event], None]
