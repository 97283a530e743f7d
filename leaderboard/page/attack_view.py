"""The page of one attack: scores per task, protection per setting, curves, costs, its cells."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.catalog.description import describe_part
from bench.errors import BenchError
from bench.record import CLEAN, NO_DEFENSE, Record
from bench.text import format_duration
from leaderboard.formatting import (
    NO_VALUE,
    format_number,
    format_percent,
    format_protection,
    format_score,
    is_missing,
    metric_label,
)
from leaderboard.page.content import PageContent, TaskMeans
from leaderboard.page.heat_view import HeatCell, color_protection
from leaderboard.scores import SETTING_AXES, track_of
from leaderboard.sections.budgets import BUDGETS

MAX_LISTED_CELLS = 400
"""An attack with more cells than this has a link to the list of all cells instead of a list of its own."""


@dataclass(frozen=True)
class TaskBar:
    """A task of an attack: texts, and the length of its bar in percent (None: no protection)."""

    task: str
    protection: str
    width: float | None
    poisoned: str
    clean: str
    floor: str


@dataclass(frozen=True)
class TaskBars:
    """The tasks of a dataset."""

    dataset: str
    metric: str
    victims: int
    bars: Sequence[TaskBar]


@dataclass(frozen=True)
class GameTable:
    """Protection by setting (rows) and defense (columns); the exploiter's choice is marked."""

    defenses: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[HeatCell, bool]]]]


@dataclass(frozen=True)
class AttackView:
    """Everything on the page of an attack."""

    attack: str
    summary: str
    source: str
    facts: Sequence[tuple[str, str]]
    games: GameTable | None
    tasks: Sequence[TaskBars]
    curves: Sequence[Mapping[str, Any]]
    noise: Sequence[tuple[str, str]]
    costs: Sequence[Sequence[str]]
    cells: Sequence[Mapping[str, str]]
    cell_count: int


def view_attack(content: PageContent, attack: str) -> AttackView:
    """Return what the page of an attack shows."""
    records = content.records_by_attack[attack]
    done = [record for record in records if record.status == "done"]
    summary, source = _describe_attack(attack)
    return AttackView(
        attack=attack,
        summary=summary,
        source=source,
        facts=_list_facts(done),
        games=_view_games(content.choices.get(attack, {})),
        tasks=[_view_tasks(dataset, rows) for dataset, rows in content.task_means.get(attack, {}).items()],
        curves=_view_curves(content, attack),
        noise=_list_noise(done) if attack != CLEAN else (),
        costs=_list_costs(content.costs.get(attack, {})),
        cells=[_list_cell(content, record) for record in records] if len(records) <= MAX_LISTED_CELLS else (),
        cell_count=len(records),
    )


def _describe_attack(attack: str) -> tuple[str, str]:
    """Return summary and source of an attack's docstring, empty for an unknown one."""
    try:
        part = describe_part("attack", attack.partition("(")[0])
    except BenchError:
        return "", ""
    return part.summary.replace("`", ""), part.source.replace("`", "")


def _list_facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    facts = [("cells", str(len(records))), ("seeds", str(len({record.cell["seed"] for record in records})))]
    if records:
        first = records[0]
        rate, budget = first.settings.get("rate", 1.0), BUDGETS.get(track_of(first), "none")
        facts.append(("budget", budget.format(first.settings.get("epsilon"))))
        facts.append(("images", "all" if rate == 1 else f"{rate:.4g} of them"))
    return facts


def _view_games(choices: Mapping[tuple[str, ...], Mapping[str, float]]) -> GameTable | None:
    """Return the table of setting → defense → protection."""
    if not choices:
        return None
    differ = [len(set(labels)) > 1 for labels in zip(*choices, strict=True)]
    shown = differ if any(differ) else [True, *[False] * (len(SETTING_AXES) - 1)]
    names = sorted({name for values in choices.values() for name in values})
    defenses = sorted(names, key=lambda name: name != NO_DEFENSE)
    rows = []
    for setting, values in choices.items():
        picked = min(values, key=lambda name: (values[name], name))
        cells = [(color_protection(values.get(name)), name == picked) for name in defenses]
        rows.append(
            (" · ".join(label for label, is_shown in zip(setting, shown, strict=True) if is_shown), cells)
        )
    return GameTable(defenses, rows)


def _view_tasks(dataset: str, rows: Sequence[TaskMeans]) -> TaskBars:
    metrics = dict.fromkeys(row["headline"] for row in rows)
    bars = [_view_task(row) for row in rows]
    return TaskBars(dataset, ", ".join(map(metric_label, metrics)), rows[0]["cells"], bars)


def _view_task(row: TaskMeans) -> TaskBar:
    value, metric = row["protection"], row["headline"]
    width = None if is_missing(value) else round(100 * min(max(value, 0.0), 1.0), 2)
    raw, clean, floor = (
        format_score(score, metric) for score in (row["raw"], row["clean_raw"], row["floor_raw"])
    )
    return TaskBar(row["task"], format_protection(value), width, raw, clean, floor)


def _view_curves(content: PageContent, attack: str) -> list[dict[str, Any]]:
    """Return a plot per dataset: lines with their name, epochs, mean, low and high."""
    plots = []
    sides = {"clean": CLEAN} | ({} if attack == CLEAN else {"poisoned": attack})
    for dataset in content.default_victims:
        lines = {
            name: content.mean_curves[dataset, label]
            for name, label in sides.items()
            if (dataset, label) in content.mean_curves
        }
        if list(sides)[-1] in lines:
            plots.append({"title": dataset, "lines": {name: vars(line) for name, line in lines.items()}})
    return plots


def _list_noise(records: Sequence[Record]) -> list[tuple[str, str]]:
    reports: list[Mapping[str, Any]] = [record.noise for record in _one_per_poison(records)]

    def mean(name: str) -> float | None:
        return mean_of_known(report.get(name) for report in reports)

    largest = max((report["linf"] for report in reports if report.get("linf") is not None), default=None)
    texts = {
        "largest change of a pixel value, of 255": NO_VALUE if largest is None else f"{largest:g}",
        "mean ℓ2 norm (pixels in [0, 1])": format_number(mean("l2")),
        "PSNR, dB": format_number(mean("psnr")),
        "SSIM": format_number(mean("ssim")),
        "lost to rounding, %": format_percent(mean("lost_to_rounding")),
        "labels as intended on its own surrogate, %": format_percent(mean("hit_rate")),
    }
    return [(name, text) for name, text in texts.items() if text != NO_VALUE]


def _list_costs(costs: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Return, per phase: its name, mean seconds, images per second, peak memory of process and device."""
    return [
        [phase, format_duration(seconds), *map(format_number, others)]
        for phase, (seconds, *others) in costs.items()
    ]


def _one_per_poison(records: Sequence[Record]) -> list[Record]:
    return list({record.poison: record for record in reversed(records)}.values())[::-1]


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, None without any."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _list_cell(content: PageContent, record: Record) -> dict[str, str]:
    names = ("dataset", "backbone", "weighting", "defense", "regime", "seed")
    labels = {name: str(record.cell[name]) for name in names}
    is_done = record.status == "done"
    shown = format_protection(content.protections[record.key]) if is_done else "failed"
    return {**labels, "protection": shown, "page": content.places[record.key]}
