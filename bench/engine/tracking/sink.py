"""What a place that shows records must offer, and what it is told of a whole suite."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bench.engine.tracking.record_values import BOARD, BY_ATTACK, time_span
from bench.record import Record

TaskProtections = Mapping[str, float]
"""Task → protection of a cell, for the tasks where it is defined."""

LogResult = Literal["added", "kept", "replaced"]

SuiteStatus = Literal["RUNNING", "KILLED"]


@dataclass(frozen=True)
class TrackedBoard:
    """What the leaderboard of a run's folder says.

    Attributes:
        files: path → content of what is shown for the whole suite: board, rows, figures, page.
        attacks: attack → name → number, such as ``protection``, in the order of the rankings.
        tracks: attack → its track, if that is not ``linf``: tracks are never compared.
        cells: key → protections of a cell.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    attacks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tracks: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, TaskProtections] = field(default_factory=dict)

    def attack_numbers(self, attack: str) -> dict[str, float]:
        """Return the line of an attack by the names that the attacks of its track share."""
        section = f"{BOARD}_{self.tracks[attack]}" if attack in self.tracks else BOARD
        return {f"{section}/{name}": value for name, value in self.attacks.get(attack, {}).items()}

    def numbers_by_attack(self) -> dict[str, float]:
        """Return the lines of all attacks by names that contain the attack's."""
        lines = self.attacks.items()
        return {f"{BY_ATTACK}/{attack}.{name}": line[name] for attack, line in lines for name in line}


@dataclass
class CellCounts:
    """How many cells of a suite are done and failed, and when the last one ended, in ms since 1970."""

    done: int = 0
    failed: int = 0
    end: int | None = None

    @classmethod
    def of(cls, records: Iterable[Record]) -> "CellCounts":
        """Count records."""
        counts = cls()
        for record in records:
            counts.add(record)
        return counts

    def add(self, record: Record) -> None:
        """Count a record."""
        self.done += record.status == "done"
        self.failed += record.status == "failed"
        self.end = max(filter(None, (self.end, time_span(record)[1])), default=None)

    def numbers(self) -> dict[str, int]:
        """Return the counts by the names under which they are shown."""
        return {"cells/done": self.done, "cells/failed": self.failed}


class Sink(Protocol):
    """A place that shows records. Its methods raise whatever its library raises."""

    def set_suite_status(self, suite: str, status: SuiteStatus) -> None:
        """Show that a suite is running, or was stopped."""

    def prepare_suite(self, suite: str, start: int | None) -> None:
        """Prepare for all records of a suite, which began at ``start``, in ms since 1970."""

    def log_record(self, record: Record, protections: TaskProtections) -> LogResult:
        """Show a record and its protections, in place of what was shown of it before."""

    def finish_suite(self, suite: str, cells: CellCounts, board: TrackedBoard) -> None:
        """Show the board of a suite, and that it has ended."""


@dataclass(frozen=True)
class Destination:
    """Where records are shown.

    Attributes:
        name: what messages call it.
        connect: imports the library and returns the sink.
        place: where to look, such as a URI or a folder.
        advice: part of an error's message → what to do about it.
    """

    name: str
    connect: Callable[[], Sink]
    place: str = ""
    advice: Mapping[str, str] = field(default_factory=dict)
