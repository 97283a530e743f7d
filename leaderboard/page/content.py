"""What every view of the page is made from, gathered once: records, scores, curves and addresses."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict, cast

from pandas import DataFrame

from bench.files import hash_bytes
from bench.record import CLEAN, POISON_PHASES, Record
from bench.text import to_one_line
from leaderboard.frame import COSTS
from leaderboard.headline import protection_by_choice
from leaderboard.page.curves import CellCurve, SeedCurve, average_curves, shorten_curve
from leaderboard.ranking import track_marker
from leaderboard.rows import cell_rows, dataset_names, default_victim_rows
from leaderboard.summary import RankedBoard

CELLS_PER_FILE = 200
"""Cells in one file of data: a page of a cell reads one or two of them."""

MAX_CURVES = 2000
"""With more cells than this the page has no learning curves: they would be most of its bytes and time."""


class TaskMeans(TypedDict):
    """Means over some cells of one task; NaN where there is none."""

    attack: str
    task: str
    headline: str
    raw: float
    clean_raw: float
    floor_raw: float
    protection: float
    cells: int


@dataclass(frozen=True)
class PageContent:
    """What the views show.

    Attributes:
        board: the ranked records.
        curves: key of a cell → its curve; empty if none are known.
        pages: attack → name of its page.
    """

    board: RankedBoard
    curves: Mapping[str, CellCurve]
    pages: Mapping[str, str]

    @cached_property
    def cells(self) -> DataFrame:
        """One row per finished cell (`leaderboard.rows.cell_rows`)."""
        return cell_rows(self.board.all_budgets)

    @cached_property
    def protections(self) -> dict[str, float]:
        """Key of a finished cell → its protection, NaN if it is not defined."""
        return dict(zip(self.cells["key"], self.cells["protection"].astype(float), strict=True))

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The record of every cell: the finished ones by their labels, then those that failed since."""
        selected = self.board.selected
        done = {record.key for record in selected.done}
        return (*selected.done, *(record for record in selected.failed if record.key not in done))

    @cached_property
    def places(self) -> dict[str, str]:
        """Key of a cell → address of its page."""
        return {
            record.key: f"cell.html#{position // CELLS_PER_FILE}:{_encode_fragment(record.key)}"
            for position, record in enumerate(self.records)
        }

    @cached_property
    def attacks(self) -> list[str]:
        """All attacks: in the order of the rankings, then the unranked ones."""
        ranked = [attack for table in self.board.rankings.values() for attack in table["attack"]]
        return list(dict.fromkeys([*(attack for attack in ranked if attack != CLEAN), *self.pages]))

    @cached_property
    def marks(self) -> dict[str, str]:
        """Attack → its name with the mark of its track."""
        mark = track_marker(self.board.all_budgets)
        return {attack: mark(attack) for attack in self.attacks}

    @cached_property
    def default_victims(self) -> dict[str, DataFrame]:
        """Dataset → rows of its default victims without a defense."""
        frame = self.board.frame
        return {dataset: default_victim_rows(frame, dataset) for dataset in dataset_names(frame)}

    @cached_property
    def records_by_attack(self) -> dict[str, list[Record]]:
        """Attack → its records, in the order of `records`."""
        grouped: dict[str, list[Record]] = {}
        for record in self.records:
            grouped.setdefault(str(record.cell["attack"]), []).append(record)
        return grouped

    @cached_property
    def costs(self) -> dict[str, dict[str, list[float]]]:
        """Attack → phase → means of seconds, images per second, peak memory of process and device (MiB)."""
        found: dict[str, dict[str, list[float]]] = {}
        timed = [str(column) for column in self.cells if str(column).endswith("_s")]
        names = [column.removesuffix("_s") for column in timed]
        for phase in (name for name in names if f"{name}_host_mb" in self.cells):
            cells = self.cells.drop_duplicates(["attack", "poison"]) if phase in POISON_PHASES else self.cells
            measured = cells[cells[f"{phase}_s"].notna()]
            columns = [f"{phase}_{suffix}" for suffix in COSTS.values()]
            means = measured.groupby("attack")[columns].mean()
            for attack, values in zip(means.index, means.to_numpy(float).tolist(), strict=True):
                found.setdefault(str(attack), {})[phase] = values
        return found

    @cached_property
    def choices(self) -> dict[str, dict[tuple[str, ...], dict[str, float]]]:
        """Attack → setting → defense → protection, a mean over seeds; clean is left out."""
        games: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
        for labels, value in protection_by_choice(self.cells[self.cells["attack"] != CLEAN]).items():
            attack, *setting, defense = map(str, cast("tuple[object, ...]", labels))
            games.setdefault(attack, {}).setdefault(tuple(setting), {})[defense] = float(value)
        return games

    @cached_property
    def task_means(self) -> dict[str, dict[str, list[TaskMeans]]]:
        """Attack → dataset → means of every task, of its default victims."""
        found: dict[str, dict[str, list[TaskMeans]]] = {}
        for dataset, victims in self.default_victims.items():
            for row in _average_tasks(victims):
                found.setdefault(row["attack"], {}).setdefault(dataset, []).append(row)
        return found

    @cached_property
    def mean_curves(self) -> dict[tuple[str, str], SeedCurve]:
        """Dataset and attack → the mean curve of the default victims, where one is known."""
        keys: dict[tuple[str, str], dict[str, int]] = {}
        for dataset, victims in self.default_victims.items():
            for attack, key, seed in zip(*(victims[name] for name in ("attack", "key", "seed")), strict=True):
                keys.setdefault((dataset, attack), {})[key] = seed
        averaged = {place: average_curves(seeds, self.curves) for place, seeds in keys.items()}
        return {place: curve for place, curve in averaged.items() if curve is not None}


def _average_tasks(victims: DataFrame) -> list[TaskMeans]:
    """Return the means of every attack and task, in the order of the tasks."""
    how: dict[str, Any] = {"headline": "first", "key": "nunique"}
    how |= dict.fromkeys(("position", "raw", "clean_raw", "floor_raw", "protection"), "mean")
    means = victims.groupby(["attack", "task"]).agg(how).reset_index().rename(columns={"key": "cells"})
    rows = means.sort_values(["position", "task"], kind="stable")[[*TaskMeans.__annotations__]]
    return cast("list[TaskMeans]", rows.to_dict("records"))


def gather_content(board: RankedBoard, with_curves: Iterable[Record] = ()) -> PageContent:
    """Return the content of a page.

    Args:
        board: the ranked records.
        with_curves: the same records with their curves; not read with over `MAX_CURVES` cells.
    """
    selected = board.selected
    attacks = {str(record.cell["attack"]) for record in (*selected.done, *selected.failed)}
    shown = {record.key for record in selected.done} if len(selected.done) <= MAX_CURVES else set()
    curves = (
        {record.key: shorten_curve(record) for record in with_curves if record.key in shown and record.curve}
        if shown
        else {}
    )
    return PageContent(board, curves, {attack: _name_page(attack) for attack in sorted(attacks)})


def _name_page(attack: str) -> str:
    """Return the name of an attack's page: readable where the label is, and different for each label."""
    readable = re.sub(r"[^a-z0-9]+", "-", attack.lower()).strip("-")[:60]
    suffix = "" if readable == attack else f"-{hash_bytes(attack.encode(errors='backslashreplace'))[:8]}"
    return f"attack-{readable}{suffix}.html"


def _encode_fragment(key: str) -> str:
    """Return a key as it stands in an address: a key of an archive can be any text."""
    if key.isascii() and key.isalnum():
        return key
    return "".join(
        char if char.isascii() and char.isalnum() else f"~{ord(char):x}~" for char in to_one_line(key)
    )
