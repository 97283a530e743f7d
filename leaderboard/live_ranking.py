"""The leading attack of a run before there is a board."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import fmean

from bench.record import CLEAN, Record, is_clean
from leaderboard.cell_protection import (
    Cells,
    add_cell,
    best_clean_share,
    learned_skills,
    paired_cells,
    shares_by_defense,
)
from leaderboard.scores import SETTING_AXES, is_partial, track_of


@dataclass
class _Setting:
    """The cells of one setting, and what is known of its attacks."""

    attacks: defaultdict[str, Cells] = field(default_factory=lambda: defaultdict(dict))
    protections: dict[str, tuple[float, int]] = field(default_factory=dict)
    outdated: set[str] = field(default_factory=set)


class LiveRanking:
    """The first row of the ranking: the attack with the highest protection against an exploiter.

    Attacks of other tracks than linf, and those on some of the images or tasks only, are left out. A cell
    counts as soon as its clean counterpart, and that without a defense, are finished.
    """

    def __init__(self) -> None:
        self._settings: defaultdict[tuple[object, ...], _Setting] = defaultdict(_Setting)
        self._best: tuple[str, float, int] | None = None

    def add(self, record: Record) -> None:
        """Add a record; adding it again changes nothing."""
        attack = str(record.cell["attack"])
        if (
            record.status != "done"
            or is_partial(record)
            or not (is_clean(attack) or track_of(record) == "linf")
        ):
            return
        setting = self._settings[tuple(record.cell[axis] for axis in SETTING_AXES)]
        if add_cell(setting.attacks[attack], record):
            setting.outdated |= set(setting.attacks) if attack == CLEAN else {attack}

    def best(self) -> tuple[str, float, int] | None:
        """Return the attack, its protection and the number of its cells, None if nothing is known yet."""
        outdated = [setting for setting in self._settings.values() if setting.outdated]
        for setting in outdated:
            for attack in setting.outdated - {CLEAN}:
                found = _protection_in_setting(setting.attacks[attack], setting.attacks[CLEAN])
                setting.protections.pop(attack, None)
                setting.protections |= {attack: found} if found else {}
            setting.outdated.clear()
        if outdated:
            self._best = self._rank_first()
        return self._best

    def _rank_first(self) -> tuple[str, float, int] | None:
        values: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        for setting in self._settings.values():
            for attack, found in setting.protections.items():
                values[attack].append(found)
        rows = [
            (attack, fmean(value for value, _ in found), sum(count for _, count in found))
            for attack, found in values.items()
        ]
        # Of equal attacks the first in the alphabet.
        return min(rows, key=lambda row: (-row[1], row[0]), default=None)


def _protection_in_setting(cells: Cells, clean: Cells) -> tuple[float, int] | None:
    """Return the protection of a setting and the number of cells, None if it is undefined."""
    references, paired = learned_skills(clean), paired_cells(cells, clean)
    shares = shares_by_defense(paired, references)
    if not shares:
        return None
    most = best_clean_share(paired, clean, references)
    left = max(fmean(values) for values in shares.values())
    return 1 - left / most, sum(map(len, shares.values()))
