"""A board in one value: its rankings with what they are made from, and a summary for every short view."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pandas import DataFrame

from bench.record import Record
from leaderboard.frame import (
    SelectedRecords,
    frame_of_selected,
    list_rows,
    records_of_latest_protocol,
    select_records,
)
from leaderboard.ranking import rank_tracks
from leaderboard.scores import Track
from leaderboard.sections.budgets import rows_at_track_budgets
from leaderboard.sections.groups import SeedOrder, seed_orders
from leaderboard.sections.noise import unfinished_attacks
from leaderboard.sections.notes import list_notes


@dataclass(frozen=True)
class RankedBoard:
    """Records, ranked.

    Attributes:
        latest: the records of the latest protocol.
        selected: those of them that are shown.
        all_budgets: their tidy table.
        frame: its rows at the budgets of the tracks: what is ranked.
        rankings: from `leaderboard.ranking.rank_tracks`.
        orders: what the seeds can order.
        unfinished: attacks whose crafting may be unfinished.
        notes: what a reader must know, in sentences.
        left_out: one sentence for each thing that is missing.
    """

    latest: list[Record]
    selected: SelectedRecords
    all_budgets: DataFrame
    frame: DataFrame
    rankings: dict[Track, DataFrame]
    orders: dict[Track, SeedOrder]
    unfinished: set[str]
    notes: list[str]
    left_out: list[str]


class BoardSummary(TypedDict):
    """What is said of a board in short, as JSON.

    ``ranking`` has a row per track and attack: ``track``, the columns of `leaderboard.ranking.rank_attacks`,
    ``craft_s`` and ``surrogate_s`` (seconds of crafting and of training surrogates, means over poisons) and
    ``unfinished``. ``unordered`` has the groups of attacks that the seeds cannot order, by track.
    """

    suites: list[str]
    protocol: int | None
    done: int
    failed: int
    seeds: list[int]
    ranking: list[dict[str, Any]]
    unordered: dict[str, list[list[str]]]
    notes: list[str]
    left_out: list[str]


def rank_records(records: Iterable[Record], left_out: Sequence[str] = ()) -> RankedBoard:
    """Rank records.

    Args:
        records: finished and failed records, in any order.
        left_out: one sentence for each thing that is missing on the board, such as a damaged file.
    """
    records = list(records)
    selected = select_records(records)
    all_budgets = frame_of_selected(selected.done)
    frame = rows_at_track_budgets(all_budgets)
    return RankedBoard(
        latest=records_of_latest_protocol(records),
        selected=selected,
        all_budgets=all_budgets,
        frame=frame,
        rankings=rank_tracks(frame),
        orders=seed_orders(frame),
        unfinished=unfinished_attacks(frame),
        notes=list_notes(frame, selected),
        left_out=list(left_out),
    )


def summarize_board(board: RankedBoard) -> BoardSummary:
    """Return what the short views of a board show."""
    done = board.selected.done
    costs = _craft_costs(board.frame)
    rows = [
        {
            "track": track,
            **{column: row[column] for column in ("rank", "attack", "protection", "low", "high")},
            **row,
            **costs.get(row["attack"], {"craft_s": None, "surrogate_s": None}),
            "unfinished": row["attack"] in board.unfinished,
        }
        for track, ranked in board.rankings.items()
        for row in list_rows(ranked)
    ]
    return {
        "suites": sorted({record.suite for record in done}),
        "protocol": done[0].protocol if done else None,
        "done": len(done),
        "failed": len(board.selected.failed),
        "seeds": sorted({int(record.cell["seed"]) for record in done}),
        "ranking": rows,
        "unordered": {str(track): order.groups for track, order in board.orders.items()},
        "notes": board.notes,
        "left_out": board.left_out,
    }


def _craft_costs(frame: DataFrame) -> dict[str, dict[str, float | None]]:
    """Return the seconds of each attack's crafting and of its surrogates, means over poisons."""
    poisons = frame[~frame["partial"]].drop_duplicates(["attack", "poison"])
    means = poisons.groupby("attack")[["craft_s", "surrogate_s"]].mean()
    return {row.pop("attack"): row for row in list_rows(means.reset_index())}
