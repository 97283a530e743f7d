"""Which attack leads while a run is still under way, from one record after the other."""

from collections import defaultdict
from dataclasses import replace
from statistics import fmean

from bench.record import AXES, CLEAN, Record, Scores
from leaderboard.scores import is_clean, protections

SETTING = tuple(axis for axis in AXES if axis not in ("attack", "defense"))


class LiveRanking:
    """The first row of the ranking: the attack with the highest worst case over the defenses.

    Attacks without a budget and those on some of the images or tasks only are left out. A cell counts once
    its clean counterpart is there.
    """

    def __init__(self) -> None:
        self._clean: dict[str, Scores] = {}  # by victim
        self._waiting: defaultdict[str, list[Record]] = defaultdict(list)  # by victim
        # attack → draw → defense → when it was finished, its protection
        self._cells: defaultdict[str, defaultdict[tuple[object, ...], dict[object, tuple[str, float]]]] = (
            defaultdict(lambda: defaultdict(dict))
        )
        self._best: tuple[str, float, int] | None = None
        self._fresh = True

    def add(self, record: Record) -> None:
        """Take in a record; one that was taken in before changes nothing."""
        if record.status != "done" or not _is_ranked(record):
            return
        if record.cell["attack"] == CLEAN:
            self._clean[record.victim] = record.scores
            for waiting in self._waiting.pop(record.victim, ()):
                self._place(waiting, record.scores)
        elif record.victim in self._clean:
            self._place(record, self._clean[record.victim])
        else:
            # Runs have thousands of records: what is long and not needed is not kept.
            short = replace(record, peak={}, curve=[], cost={}, environment={}, settings={})
            self._waiting[record.victim].append(short)

    def best(self) -> tuple[str, float, int] | None:
        """Return the attack, its protection, and from how many cells; None while nothing is known."""
        if not self._fresh:
            rows = [
                (
                    attack,
                    fmean(min(value for _, value in defenses.values()) for defenses in draws.values()),
                    sum(map(len, draws.values())),
                )
                for attack, draws in self._cells.items()
            ]
            # Of equals the first in the alphabet.
            self._best = min(rows, key=lambda row: (-row[1], row[0]))
            self._fresh = True
        return self._best

    def _place(self, record: Record, clean: Scores) -> None:
        found = protections(record, clean)
        if not found:
            return
        draw = tuple(record.cell[axis] for axis in SETTING)
        defenses, defense = self._cells[str(record.cell["attack"])][draw], record.cell["defense"]
        # Of a cell that was finished under other settings too the last one counts.
        if defense not in defenses or defenses[defense][0] <= record.finished:
            defenses[defense] = record.finished, fmean(found.values())
            self._fresh = False


def _is_ranked(record: Record) -> bool:
    settings = record.settings
    if settings.get("rate", 1.0) < 1 or set(record.tasks) - set(settings.get("protected") or record.tasks):
        return False
    return is_clean(str(record.cell["attack"])) or settings.get("epsilon", ...) is not None
