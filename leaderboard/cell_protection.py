"""The protection of single cells, from their records and without pandas: while a suite runs, or for one cell.

`docs/scores.md` defines it; `leaderboard.scores.add_protection` computes the same for a whole table.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from bench.record import CLEAN, NO_DEFENSE, Record, is_same_data, relative_score
from leaderboard.scores import SETTING_AXES, is_clearly_positive

Skills = Mapping[str, float]
"""Task → relative score."""


@dataclass(frozen=True)
class ScoredCell:
    """What protection needs of a finished cell."""

    key: str
    finished: str
    data: str
    victim: str
    skills: Skills


Cells = dict[tuple[str, int], ScoredCell]
"""The cells of an attack in one setting, by defense and seed."""

TaskProtections = dict[str, float]
"""Task → protection, for the tasks where it is defined."""


class CellProtections:
    """The protection of every cell and task, among the records that are there so far.

    That of one task of a cell is 1 - u / U(clean), under the cell's own defense. So the headline of an attack
    is the smallest, over the defenses, of the mean over tasks and seeds. It is known as soon as there are the
    clean counterpart and the clean victim without a defense. It can still change: both u and U(clean) are
    measured in means over the seeds, and U(clean) is the largest over the defenses that the attack met.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._settings: defaultdict[tuple[object, ...], defaultdict[str, Cells]] = defaultdict(
            lambda: defaultdict(dict)
        )
        self._known: set[str] = set()
        for record in records:
            self._add(record)
        self._known |= self.by_cell().keys()

    def add(self, record: Record) -> dict[str, TaskProtections]:
        """Add a record; return, by key, the cells that have a protection now and had none before."""
        setting = self._add(record)
        attack = str(record.cell["attack"])
        found = _protections(setting, setting if attack == CLEAN else [attack])
        new = {key: by_task for key, by_task in found.items() if key not in self._known}
        self._known |= new.keys()
        return new

    def by_cell(self) -> dict[str, TaskProtections]:
        """Return the protections of all cells by their keys."""
        settings = self._settings.values()
        return {key: found for setting in settings for key, found in _protections(setting, setting).items()}

    def _add(self, record: Record) -> dict[str, Cells]:
        setting = self._settings[(record.protocol, *(record.cell[axis] for axis in SETTING_AXES))]
        if record.status == "done":
            add_cell(setting[str(record.cell["attack"])], record)
        return setting


def protection_by_task(record: Record, others: Iterable[Record]) -> TaskProtections:
    """Return the protection of a finished cell.

    Args:
        record: the cell.
        others: records of the same run; those of the same setting and protocol count.
    """
    same = [each for each in others if all(each.cell[a] == record.cell[a] for a in SETTING_AXES)]
    return CellProtections([*same, record]).by_cell().get(record.key, {})


def add_cell(cells: Cells, record: Record) -> bool:
    """Add a finished cell to those of its attack, unless a newer one has its place; return whether it was."""
    place = str(record.cell["defense"]), int(record.cell["seed"])
    # If a cell was finished more than once, with other settings, the last one counts.
    is_newest = place not in cells or (cells[place].finished, cells[place].key) <= (
        record.finished,
        record.key,
    )
    if is_newest:
        skills = _skills_of(record)
        cells[place] = ScoredCell(record.key, record.finished, record.data, record.victim, skills)
    return is_newest


def _skills_of(record: Record) -> Skills:
    relative = {
        task: relative_score(info, record.scores[task][info["scored"]]) for task, info in record.tasks.items()
    }
    return {task: skill for task, skill in relative.items() if skill is not None}


def _protections(setting: Mapping[str, Cells], attacks: Iterable[str]) -> dict[str, TaskProtections]:
    """Return, by key, the protections of the cells of attacks that have one."""
    clean = setting.get(CLEAN, {})
    references = learned_skills(clean)
    if not references:
        return {}
    protections = {}
    for attack in attacks:
        paired = paired_cells(setting.get(attack, {}), clean)
        most = best_clean_share(paired, clean, references)
        for cell in paired.values():
            protections[cell.key] = {
                task: 1 - skill / references[task] / most
                for task, skill in cell.skills.items()
                if task in references
            }
    return {key: by_task for key, by_task in protections.items() if by_task}


def learned_skills(clean: Cells) -> Skills:
    """Return task → mean skill of the clean victims without a defense, where it is clearly above 0."""
    undefended = [cell.skills for (defense, _), cell in clean.items() if defense == NO_DEFENSE]
    tasks = dict.fromkeys(task for skills in undefended for task in skills)
    by_task = {task: [skills[task] for skills in undefended if task in skills] for task in tasks}
    return {task: fmean(skills) for task, skills in by_task.items() if is_clearly_positive(skills)}


def best_clean_share(paired: Cells, clean: Cells, references: Skills) -> float:
    """Return U(clean) over the defenses that an attack met in pairs, and none."""
    met = {NO_DEFENSE, *(defense for defense, _ in paired)}
    allowed = {place: cell for place, cell in clean.items() if place[0] in met}
    return max(fmean(values) for values in shares_by_defense(allowed, references).values())


def paired_cells(cells: Cells, clean: Cells) -> Cells:
    """Return the cells that have a clean counterpart."""
    return {place: cell for place, cell in cells.items() if _is_pair(cell, clean.get(place))}


def _is_pair(cell: ScoredCell, clean: ScoredCell | None) -> bool:
    return clean is not None and clean.victim == cell.victim and is_same_data(clean.data, cell.data)


def shares_by_defense(cells: Cells, references: Skills) -> dict[str, list[float]]:
    """Return the share of every cell, by defense: the mean over the tasks with a reference."""
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for (defense, _), cell in cells.items():
        parts = [skill / references[task] for task, skill in cell.skills.items() if task in references]
        if parts:
            shares[defense].append(fmean(parts))
    return shares
