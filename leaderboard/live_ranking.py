"""What records say before there is a board: the leading attack of a run, and the protection of one cell."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from bench.record import CLEAN, NO_DEFENSE, Record, is_clean, is_same_data, relative_score
from leaderboard.scores import SETTING_AXES, is_clearly_positive, is_partial, track_of

Skills = Mapping[str, float]
"""Task → relative score."""


@dataclass(frozen=True)
class _Cell:
    finished: str
    data: str
    victim: str
    skills: Skills


Cells = dict[tuple[str, int], _Cell]
"""The cells of an attack in one setting, by defense and seed."""


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
        cells, place = setting.attacks[attack], (str(record.cell["defense"]), int(record.cell["seed"]))
        # If a cell was finished more than once, with other settings, the last one counts.
        if place not in cells or cells[place].finished <= record.finished:
            cells[place] = _Cell(record.finished, record.data, record.victim, _skills_of(record))
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


def _skills_of(record: Record) -> Skills:
    relative = {
        task: relative_score(info, record.scores[task][info["scored"]]) for task, info in record.tasks.items()
    }
    return {task: skill for task, skill in relative.items() if skill is not None}


def protection_by_task(record: Record, others: Iterable[Record]) -> dict[str, float]:
    """Return task → protection of a finished cell, for the tasks where it is defined.

    Args:
        record: the cell.
        others: records of the same run; those of the same setting and protocol count.
    """
    setting: defaultdict[str, Cells] = defaultdict(dict)
    for other in sorted([*others, record], key=lambda each: (each.finished, each.key)):
        same = all(other.cell[axis] == record.cell[axis] for axis in SETTING_AXES)
        if same and other.status == "done" and other.protocol == record.protocol:
            place = str(other.cell["defense"]), int(other.cell["seed"])
            setting[str(other.cell["attack"])][place] = _Cell(
                other.finished, other.data, other.victim, _skills_of(other)
            )
    clean, cells = setting[CLEAN], setting[str(record.cell["attack"])]
    references, place = _learned_skills(clean), (str(record.cell["defense"]), int(record.cell["seed"]))
    if not references or place not in cells or not _is_pair(cells[place], clean.get(place)):
        return {}
    paired = {place for place, cell in cells.items() if _is_pair(cell, clean.get(place))}
    most, skills = (
        _best_clean_share({defense for defense, _ in paired}, clean, references),
        _skills_of(record),
    )
    return {task: 1 - skills[task] / references[task] / most for task in skills if task in references}


def _protection_in_setting(cells: Cells, clean: Cells) -> tuple[float, int] | None:
    """Return the protection of a setting and the number of cells, None if it is undefined."""
    references = _learned_skills(clean)
    paired = {place: cell for place, cell in cells.items() if _is_pair(cell, clean.get(place))}
    shares = _shares_by_defense(paired, references)
    if not shares:
        return None
    most = _best_clean_share({defense for defense, _ in paired}, clean, references)
    left = max(fmean(values) for values in shares.values())
    return 1 - left / most, sum(map(len, shares.values()))


def _learned_skills(clean: Cells) -> Skills:
    """Return task → mean skill of the clean victims without a defense, where it is clearly above 0."""
    undefended = [cell.skills for (defense, _), cell in clean.items() if defense == NO_DEFENSE]
    tasks = _all_tasks(undefended)
    by_task = {task: [skills[task] for skills in undefended if task in skills] for task in tasks}
    return {task: fmean(skills) for task, skills in by_task.items() if is_clearly_positive(skills)}


def _best_clean_share(met: set[str], clean: Cells, references: Skills) -> float:
    """Return U(clean) over the defenses that an attack met, and none."""
    allowed = {place: cell for place, cell in clean.items() if place[0] in {*met, NO_DEFENSE}}
    return max(fmean(values) for values in _shares_by_defense(allowed, references).values())


def _all_tasks(skills: Iterable[Skills]) -> list[str]:
    return list(dict.fromkeys(task for each in skills for task in each))


def _is_pair(cell: _Cell, clean: _Cell | None) -> bool:
    return clean is not None and clean.victim == cell.victim and is_same_data(clean.data, cell.data)


def _shares_by_defense(cells: Cells, references: Skills) -> dict[str, list[float]]:
    """Return the share of every cell, by defense: the mean over the tasks with a reference."""
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for (defense, _), cell in cells.items():
        parts = [skill / references[task] for task, skill in cell.skills.items() if task in references]
        if parts:
            shares[defense].append(fmean(parts))
    return shares
