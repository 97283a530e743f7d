"""Which attacks of a ranking the seeds can order, and which they cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series

from bench.record import CLEAN
from leaderboard.formatting import escape_markdown, format_count, join_blocks
from leaderboard.headline import protection_by_choice
from leaderboard.paired_games import PairedGames
from leaderboard.rows import cell_rows, full_protection_rows
from leaderboard.scores import SETTING_AXES, TRACKS, Track
from leaderboard.statistics import MIN_INTERVAL_SEEDS, Interval, seed_interval

GAME_AXES = list(SETTING_AXES)
"""Axes that are equal within a game; its choice is the defense."""

LEVEL = 0.95
"""Confidence in all orders of a ranking together."""


def game_protections(frame: DataFrame) -> "Series[float]":
    """Return what is left of each game after the choice: protection by attack and `GAME_AXES`.

    Args:
        frame: from `leaderboard.frame.to_frame`; clean cells and partial protection are left out.
    """
    cells = cell_rows(full_protection_rows(frame[frame["attack"] != CLEAN]))
    return protection_by_choice(cells).groupby(level=["attack", *GAME_AXES]).min()


def pairwise_intervals(cells: DataFrame, attacks: Sequence[str]) -> dict[tuple[str, str], Interval | None]:
    """Return, for every pair of attacks, the interval of the difference of their headlines.

    Only games, defenses and seeds of both are compared, and each side has its own choice. The levels are
    those of Bonferroni: all intervals hold together at `LEVEL`.

    Args:
        cells: from `leaderboard.rows.cell_rows`, of attacks that may be ranked together.
        attacks: labels in the order of the ranking.

    Returns:
        (better, worse) → interval, None without one.
    """
    protections, seeds = _to_array(cells, attacks)
    pairs = list(combinations(range(len(attacks)), 2))
    intervals = {}
    for first, second in pairs:
        a, b = protections[first], protections[second]
        present = ~np.isnan(a) & ~np.isnan(b)
        shared = present.any(axis=(1, 2))
        kept_a, kept_b = (np.where(present, side, 0.0)[shared] for side in (a, b))
        games = PairedGames(kept_a, kept_b, present[shared].astype(np.float64))
        comparable = shared.any() and games.is_complete
        level = 1 - (1 - LEVEL) / len(pairs)
        intervals[attacks[first], attacks[second]] = (
            seed_interval(games.differences, seeds, level) if comparable else None
        )
    return intervals


def unordered_groups(
    attacks: Sequence[str], intervals: dict[tuple[str, str], Interval | None]
) -> list[list[str]]:
    """Return the largest runs of a ranking in which no attack is shown to be better than another one."""
    ends = []
    for start in range(len(attacks)):
        end = start + 1
        while end < len(attacks) and not any(
            _is_ordered(intervals[attacks[before], attacks[end]]) for before in range(start, end)
        ):
            end += 1
        ends.append(end)
    runs = [(start, end) for start, end in enumerate(ends) if end - start > 1]
    return [list(attacks[start:end]) for start, end in runs if start == 0 or ends[start - 1] < end]


@dataclass(frozen=True)
class SeedOrder:
    """What the seeds of one track can order.

    Attributes:
        attacks: in the order of the ranking.
        seeds: number of seeds.
        intervals: from `pairwise_intervals`, None with too few seeds for any.
    """

    attacks: list[str]
    seeds: int
    intervals: dict[tuple[str, str], Interval | None] | None

    @property
    def groups(self) -> list[list[str]]:
        """The attacks that cannot be ordered, see `unordered_groups`; all of them with too few seeds."""
        return [self.attacks] if self.intervals is None else unordered_groups(self.attacks, self.intervals)


def seed_orders(frame: DataFrame) -> dict[Track, SeedOrder]:
    """Return what the seeds can order in each track with at least two attacks."""
    orders = {track: _seed_order(frame[frame["track"] == track]) for track in TRACKS}
    return {track: order for track, order in orders.items() if order is not None}


def _seed_order(frame: DataFrame) -> SeedOrder | None:
    headlines = game_protections(frame).groupby(level="attack").mean()
    attacks = [str(attack) for attack in headlines.sort_values(ascending=False, kind="stable").index]
    if len(attacks) < 2:
        return None
    cells = cell_rows(full_protection_rows(frame[frame["attack"].isin(attacks)]))
    cells = cells[cells["protection"].notna()]
    seeds = cells["seed"].nunique()
    enough = seeds >= MIN_INTERVAL_SEEDS
    return SeedOrder(attacks, seeds, pairwise_intervals(cells, attacks) if enough else None)


def render_groups(orders: Mapping[Track, SeedOrder]) -> str:
    """Return, in markdown, which attacks of each ranking cannot be ordered; empty with fewer than two."""
    texts = {track: _render_groups_of_track(order) for track, order in orders.items()}
    return join_tracks("## What the seeds can order", texts)


TRACK_TITLES: dict[Track, str] = {
    "linf": "",
    "l2": "**Attacks with an l2 budget.** ",
    "unbounded": "**Attacks without a budget.** ",
}
"""Track → what its text begins with."""


def join_tracks(heading: str, texts: Mapping[Track, str]) -> str:
    """Return a section with a text per track, empty without any; only attacks of one track are comparable."""
    titled = [f"{TRACK_TITLES[track]}{text}" for track, text in texts.items() if text]
    return join_blocks(heading, *titled) if titled else ""


def _render_groups_of_track(order: SeedOrder) -> str:
    if order.intervals is None:
        return f"{format_count(order.seeds, 'seed')} cannot order any two attacks: too few for an interval."
    widths = [(each.high - each.low) / 2 for each in order.intervals.values() if each is not None]
    resolved = (
        f" Half of the pairs can only be ordered if they differ by over {np.median(widths):.2f}."
        if widths
        else ""
    )
    head = f"What {order.seeds} seeds can order, if noise is normal ({LEVEL:.0%} for all pairs, Bonferroni)"
    if not order.groups:
        return f"{head}: every attack is better than the next one.{resolved}"
    listed = "\n".join(f"- {', '.join(map(escape_markdown, group))}" for group in order.groups)
    return join_blocks(f"{head}: attacks of one line cannot be ordered.{resolved}", listed)


def _is_ordered(interval: Interval | None) -> bool:
    return interval is not None and not interval.includes_zero


def _to_array(cells: DataFrame, attacks: Sequence[str]) -> tuple[NDArray[np.float64], int]:
    """Return protections [attacks games defenses seeds], NaN where there is none, and the number of seeds."""
    cells = cells[cells["attack"].isin(attacks)]
    places = [
        cells["attack"].map({attack: place for place, attack in enumerate(attacks)}).to_numpy(int),
        cells.groupby(GAME_AXES).ngroup().to_numpy(),
        cells.groupby("defense").ngroup().to_numpy(),
        cells.groupby("seed").ngroup().to_numpy(),
    ]
    protections = np.full([len(attacks), *(place.max() + 1 for place in places[1:])], np.nan)
    protections[tuple(places)] = cells["protection"].to_numpy(float)
    return protections, protections.shape[-1]
