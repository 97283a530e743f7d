"""The events of a run. The runner knows no display and no tracker: it only emits events to listeners."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.record import Record

if TYPE_CHECKING:  # importing cells imports torch, which commands that only show a run do not need
    from bench.engine.planning.cell import ItemKind


@dataclass(frozen=True)
class RunStarted:
    """A run begins.

    Attributes:
        suite: its name.
        out: the run's folder.
        counts: items of each kind (to do, already made).
        labels: of the items to do, of each kind.
    """

    suite: str
    out: str
    counts: "dict[ItemKind, tuple[int, int]]"
    labels: "Mapping[ItemKind, Sequence[str]]" = field(default_factory=dict)


@dataclass(frozen=True)
class ItemProgress:
    """An item has reached step ``done`` of ``total`` (``what``: ``epoch``, ``round``, ...).

    The first event of an item is its start. Workers report at most a few times per second.
    """

    kind: "ItemKind"
    key: str
    label: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class ItemFinished:
    """An item is finished and saved; with the record of a cell, and the one-line error of a failed item."""

    kind: "ItemKind"
    key: str
    label: str
    seconds: float
    record: Record | None = None
    error: str | None = None


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


Event = RunStarted | ItemProgress | ItemFinished | RunFinished | Notice
Listener = Callable[[Event], None]
