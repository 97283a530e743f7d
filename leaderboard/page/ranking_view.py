"""The rankings of the page: one per track, with bars, as tables with bars."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from pandas import DataFrame, isna

from bench.record import CLEAN, POISON_PHASES
from bench.text import format_duration
from leaderboard.formatting import (
    NO_VALUE,
    RANKING_TITLES,
    format_protection,
    is_missing,
    metric_label,
    metric_order,
)
from leaderboard.ranking import RAW
from leaderboard.scores import Track
from leaderboard.sections.groups import SeedOrder
from leaderboard.sections.ranking_tables import LEGENDS
from leaderboard.summary import RankedBoard

DOMAIN = (-0.1, 1.1)
"""Protections that a bar's scale always shows."""

VALUES = ("protection", "low", "high", "undefended", "transfer", "transfer_low", "transfer_high")
"""Columns of a ranking that the browser gets."""


@dataclass(frozen=True)
class Bar:
    """A bar with its interval: positions in percent of the width; None for what is not shown."""

    zero: float
    one: float
    value: float | None
    low: float | None
    high: float | None
    undefended: float | None


@dataclass(frozen=True)
class RankedAttack:
    """A line of a ranking; all values but ``values`` and ``raw`` are texts.

    Attributes:
        group: letters; attacks that share one cannot be ordered.
        values: `VALUES`, for the browser.
        raw: headline metric → mean.
    """

    attack: str
    rank: str
    protection: str
    interval: str
    group: str
    undefended: str
    defense: str
    transfer: str
    craft: str
    craft_s: float | None
    bar: Bar
    values: Mapping[str, float | None]
    raw: Mapping[str, float | None]


@dataclass(frozen=True)
class RankedTrack:
    """The ranking of a track."""

    track: Track
    title: str
    legend: str
    domain: tuple[float, float]
    metrics: Sequence[str]
    rows: Sequence[RankedAttack]
    order: SeedOrder | None

    @property
    def has_transfer(self) -> bool:
        """Whether an attack of the track has a transfer score."""
        return any(row.transfer != NO_VALUE for row in self.rows)

    @property
    def has_intervals(self) -> bool:
        """Whether an attack of the track has an interval."""
        return any(row.interval for row in self.rows)

    @property
    def has_groups(self) -> bool:
        """Whether the seeds were enough to order attacks."""
        return any(row.group for row in self.rows)


def view_rankings(board: RankedBoard) -> list[RankedTrack]:
    """Return the ranking of every track."""
    crafting = craft_seconds(board.frame)
    return [
        _view_track(track, table, board.orders.get(track), crafting)
        for track, table in board.rankings.items()
    ]


def craft_seconds(frame: DataFrame) -> dict[str, float]:
    """Return attack → seconds of crafting and of its surrogates, the mean over its poisons."""
    columns = [f"{phase}_s" for phase in POISON_PHASES]
    poisons = frame[frame["attack"] != CLEAN].drop_duplicates("poison")
    seconds = poisons[columns].sum(axis=1, min_count=1).groupby(poisons["attack"]).mean()
    return {str(attack): float(value) for attack, value in seconds.dropna().items()}


def _view_track(
    track: Track, table: DataFrame, order: SeedOrder | None, crafting: Mapping[str, float]
) -> RankedTrack:
    names = [str(name) for name in table if str(name).startswith(RAW)]
    metrics = sorted((name.removeprefix(RAW) for name in names), key=metric_order)
    shown = [table[name].dropna() for name in ("protection", "low", "high", "undefended") if name in table]
    domain = (
        min([DOMAIN[0], *(float(values.min()) for values in shown if len(values))]),
        max([DOMAIN[1], *(float(values.max()) for values in shown if len(values))]),
    )
    letters = _letter_groups(order)
    rows = [
        _view_row(row, metrics, domain, letters, crafting.get(row["attack"]))
        for row in table.to_dict("records")
    ]
    return RankedTrack(track, RANKING_TITLES[track], LEGENDS[track], domain, metrics, rows, order)


def _letter_groups(order: SeedOrder | None) -> dict[str, str]:
    """Return attack → letters of the groups it is in; an attack that can be ordered has one of its own."""
    if order is None or order.intervals is None:
        return {}
    letters: dict[str, str] = {}
    for number, group in enumerate(order.groups):
        letter = ascii_lowercase[number] if number < len(ascii_lowercase) else f" {number + 1}"
        for attack in group:
            letters[attack] = letters.get(attack, "") + letter
    return letters


def _view_row(
    row: Mapping[Hashable, Any],
    metrics: Sequence[str],
    domain: tuple[float, float],
    letters: Mapping[str, str],
    seconds: float | None,
) -> RankedAttack:
    values = {name: number_or_none(row.get(name)) for name in VALUES}
    is_clean = row["attack"] == CLEAN
    return RankedAttack(
        attack=row["attack"],
        rank=NO_VALUE if isna(row["rank"]) else str(row["rank"]),
        protection=format_protection(row["protection"]),
        interval=_write_ends(values["low"], values["high"]),
        group=letters.get(row["attack"], ""),
        undefended=format_protection(row["undefended"]),
        defense=NO_VALUE if is_clean or isna(row["defense"]) else row["defense"],
        transfer=NO_VALUE if is_clean else _format_transfer_score(values, row.get("transfer_choice")),
        craft=NO_VALUE if seconds is None else format_duration(seconds),
        craft_s=seconds,
        bar=_place_bar(values, domain),
        values=values,
        raw={metric: number_or_none(row[f"{RAW}{metric}"]) for metric in metrics},
    )


def _format_transfer_score(values: Mapping[str, float | None], choice: Any) -> str:
    if values["transfer"] is None:
        return NO_VALUE
    interval = _write_ends(values["transfer_low"], values["transfer_high"])
    return f"{format_protection(values['transfer'])}{interval and f', {interval}'} ({choice})"


def _write_ends(low: float | None, high: float | None) -> str:
    """Return an interval, empty without one."""
    return "" if low is None or high is None else f"{low:z.2f} to {high:z.2f}"


def number_or_none(value: Any) -> float | None:
    """Return a number with six decimals, None for a missing one."""
    return None if is_missing(value) else round(float(value), 6)


def _place_bar(values: Mapping[str, float | None], domain: tuple[float, float]) -> Bar:
    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - domain[0]) / (domain[1] - domain[0]), 2)

    low, high = place(values["low"]), place(values["high"])
    zero, one = (round(100 * (value - domain[0]) / (domain[1] - domain[0]), 2) for value in (0.0, 1.0))
    return Bar(zero, one, place(values["protection"]), low, high, place(values["undefended"]))


def list_metrics(tracks: Sequence[RankedTrack]) -> list[tuple[str, str]]:
    """Return what a ranking can be sorted by: name and words."""
    metrics = sorted({metric for track in tracks for metric in track.metrics}, key=metric_order)
    transfer = [("transfer", "transfer")] if any(track.has_transfer for track in tracks) else []
    return [
        ("protection", "protection"),
        ("undefended", "protection without a defense"),
        *transfer,
        *((f"{RAW}{metric}", f"{metric_label(metric)}, without a defense") for metric in metrics),
    ]
