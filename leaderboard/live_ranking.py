"""The leading attack while a suite is running, updated record by record."""

from collections import defaultdict
from dataclasses import replace
from statistics import fmean

from bench.record import CLEAN, Record, Scores, is_clean, is_same_data
from leaderboard.scores import SETTING_AXES, is_bounded, is_partial, protection_by_task


class LiveRanking:
    """The first row of the ranking: the attack with the highest worst case over the defenses.

    Attacks without a budget, and those on some of the images or tasks only, are left out. A cell counts as
    soon as its clean counterpart is finished.
    """

    def __init__(self) -> None:
        self._clean: dict[str, tuple[str, Scores]] = {}  # victim → fingerprint of the data, scores
        self._unpaired: defaultdict[str, list[Record]] = defaultdict(list)  # by victim
        # attack → setting → defense → time finished, protection
        self._cells: defaultdict[str, defaultdict[tuple[object, ...], dict[object, tuple[str, float]]]] = (
            defaultdict(lambda: defaultdict(dict))
        )
        self._best: tuple[str, float, int] | None = None
        self._is_current = True

    def add(self, record: Record) -> None:
        """Add a record; adding it again changes nothing."""
        attack = str(record.cell["attack"])
        if record.status != "done" or is_partial(record) or not (is_clean(attack) or is_bounded(record)):
            return
        if attack == CLEAN:
            self._clean[record.victim] = record.data, record.scores
            for unpaired in self._unpaired.pop(record.victim, ()):
                self._pair(unpaired)
        else:
            self._pair(record)

    def best(self) -> tuple[str, float, int] | None:
        """Return the attack, its worst case and the number of its cells, None if nothing is known yet."""
        if not self._is_current:
            rows = [
                (
                    attack,
                    fmean(min(value for _, value in defenses.values()) for defenses in settings.values()),
                    sum(map(len, settings.values())),
                )
                for attack, settings in self._cells.items()
            ]
            # Of equal attacks the first in the alphabet.
            self._best = min(rows, key=lambda row: (-row[1], row[0]))
            self._is_current = True
        return self._best

    def _pair(self, record: Record) -> None:
        """Add a record together with its clean counterpart, or keep it until that is finished."""
        data, clean = self._clean.get(record.victim, (None, {}))
        if data is not None and is_same_data(data, record.data):
            self._add_pair(record, clean)
            return
        # A run can have thousands of records: the long fields, which are not needed, are dropped.
        environment = {"data": record.data}
        short = replace(record, peak={}, curve=[], cost={}, environment=environment, settings={})
        self._unpaired[record.victim].append(short)

    def _add_pair(self, record: Record, clean: Scores) -> None:
        protections = protection_by_task(record, clean)
        if not protections:
            return
        setting = tuple(record.cell[axis] for axis in SETTING_AXES)
        defenses, defense = self._cells[str(record.cell["attack"])][setting], record.cell["defense"]
        # If a cell was finished more than once, with other settings, the last one counts.
        if defense not in defenses or defenses[defense][0] <= record.finished:
            defenses[defense] = record.finished, fmean(protections.values())
            self._is_current = False
