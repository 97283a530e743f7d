"""Rank the attacks, and list them in the order of the ranking in every table."""

from collections.abc import Callable, Sequence
from typing import Any

from pandas import DataFrame, Series, concat

from bench.record import AXES, CLEAN, NO_DEFENSE
from leaderboard.formatting import metric_order
from leaderboard.headline import headline, headline_intervals, protection_by_choice
from leaderboard.rows import cell_rows
from leaderboard.scores import SCORE_COLUMNS, SETTING_AXES, TRACKS, TRANSFER_AXES, Track, add_protection

TRACK_MARKS: dict[Track, str] = {"linf": "", "l2": " ‡", "unbounded": " †"}
"""Track → what marks its attacks in tables that show several tracks."""

RANKING_COLUMNS = (
    *(*AXES, "key", "victim", "task", "track", "partial", "score", "floor", "perfect"),
    *SCORE_COLUMNS,
)
"""Columns of a tidy table that the order of the attacks depends on."""


def sort_attacks(by_attack: DataFrame) -> DataFrame:
    """Return a table indexed by attack with a column ``attack``: best first, ``clean`` last.

    Attacks with equal ``protection`` are in the order of that without a defense, ``undefended``.
    """
    table = by_attack.rename_axis("attack").reset_index()
    table["clean"] = table["attack"] == CLEAN
    order = ["clean", "protection", "undefended", "attack"]
    table = table.sort_values(order, ascending=[True, False, False, True], ignore_index=True)
    return table.drop(columns="clean")


def attack_order(frame: DataFrame) -> list[str]:
    """Return the attacks in the order of the rankings: ``clean``, then track by track."""
    cells = cell_rows(frame.loc[~frame["partial"], [*RANKING_COLUMNS]])
    order = [CLEAN] if (cells["attack"] == CLEAN).any() else []
    for track in TRACKS:
        ranked = cells[(cells["track"] == track) & (cells["attack"] != CLEAN)]
        order.extend(sort_attacks(_protection_columns(ranked, protection_by_choice(ranked)))["attack"])
    return list(dict.fromkeys(order))


def sort_table(table: DataFrame, frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Sort a table by columns.

    Attacks are in the order of the rankings, with unranked ones last; metrics in the order of the field;
    defense ``none`` is first; everything else is in its natural order.

    Args:
        table: the table.
        frame: the tidy table it was made from, which the rankings depend on.
        columns: columns to sort by.
    """
    ranked = attack_order(frame)
    orders: dict[object, Callable[[str], tuple[object, ...]]] = {
        "attack": lambda attack: (ranked.index(attack) if attack in ranked else len(ranked), attack),
        "metric": metric_order,
        "defense": lambda defense: (defense != NO_DEFENSE, defense),
    }

    def positions(column: Any) -> Any:
        values = sorted(column.unique(), key=orders.get(column.name))
        return column.map({value: position for position, value in enumerate(values)})

    return table.sort_values(list(columns), key=positions, ignore_index=True)


def track_marker(frame: DataFrame) -> Callable[[str], str]:
    """Return a function that marks attacks of the tracks in `TRACK_MARKS`."""
    attacks = frame[["attack", "track"]].drop_duplicates("attack").set_index("attack")
    marks = attacks["track"].drop(CLEAN, errors="ignore").map(TRACK_MARKS)
    return lambda attack: f"{attack}{marks.get(attack, '')}"


RAW = "raw_"
"""Prefix of the column of a headline metric."""


def rank_attacks(frame: DataFrame, track: Track = "linf") -> DataFrame:
    """Rank the attacks of one track by what they leave of the game with an exploiter who picks the defense.

    For every dataset, backbone, weighting and regime the protection is the smallest one over the defenses
    that were run, of means over seeds; the headline is the mean of these. Attacks on some of the images or
    tasks only are not ranked.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        track: its attacks are ranked.

    Returns:
        One row per attack, best first, ``clean`` last:
        ``rank`` (missing for clean and for attacks without a defined protection), ``attack``, ``protection``,
        ``low`` and ``high`` (its 95 % interval over seeds, NaN with too few), ``undefended`` (protection
        without a defense), ``defense`` (the one that is picked most often), ``choices_min`` and
        ``choices_max`` (number of defenses that it is picked from), ``transfer``, ``transfer_low``,
        ``transfer_high`` and ``transfer_choice`` (the same if the exploiter picks the backbone too, among
        those that the surrogate does not share), ``cells``, ``undefined`` (tasks of cells), ``unpaired``
        (cells) and a ``raw_METRIC`` per headline metric (under defense ``none`` if it was run).
    """
    rows = ~frame["partial"] & ((frame["track"] == track) | (frame["attack"] == CLEAN))
    frame = frame.loc[rows, [*RANKING_COLUMNS, "knows_backbone", "headline", "raw"]]
    if not len(frame):
        return DataFrame(columns=["rank", "attack", "protection"])
    cells = cell_rows(frame)
    columns = [headline_columns(cells), _interval_columns(frame), _transfer_columns(frame)]
    table = sort_attacks(concat([*columns, _count_columns(cells), _raw_columns(frame)], axis=1))
    # An attack without a defined protection has no defense that is picked.
    counts = ["choices_min", "choices_max"]
    table[counts] = table[counts].fillna(0).astype(int)
    is_ranked = (table["attack"] != CLEAN) & table["protection"].notna()
    table.insert(0, "rank", is_ranked.cumsum().where(is_ranked).astype("Int64"))
    return table


def rank_tracks(frame: DataFrame) -> dict[Track, DataFrame]:
    """Return the ranking of every track with attacks; without any, that of the first one with clean alone."""
    rankings = {track: rank_attacks(frame, track) for track in TRACKS}
    present = {track: table for track, table in rankings.items() if (table["attack"] != CLEAN).any()}
    first = TRACKS[0]
    return present or ({first: rankings[first]} if len(rankings[first]) else {})


def headline_columns(cells: DataFrame) -> DataFrame:
    """Return, by attack, the protection, how it is without a defense, and which defenses are picked.

    Args:
        cells: from `leaderboard.rows.cell_rows`, with full protection.

    Returns:
        The columns ``protection``, ``undefended``, ``defense``, ``choices_min`` and ``choices_max`` of
        `rank_attacks`.
    """
    choices = protection_by_choice(cells)
    groups = choices.groupby(level=["attack", *SETTING_AXES])
    counts = groups.size().groupby(level="attack")
    return _protection_columns(cells, choices).assign(
        defense=_most_frequent_pick(choices, SETTING_AXES, ["defense"]),
        choices_min=counts.min(),
        choices_max=counts.max(),
    )


def _protection_columns(cells: DataFrame, choices: "Series[float]") -> DataFrame:
    undefended = choices[choices.index.get_level_values("defense") == NO_DEFENSE]
    columns = {"protection": headline(choices), "undefended": undefended.groupby(level="attack").mean()}
    return DataFrame(columns).reindex(sorted(cells["attack"].unique()))


def _most_frequent_pick(
    choices: "Series[float]", setting: Sequence[str], axes: Sequence[str]
) -> "Series[str]":
    """Return, by attack, the labels of axes that are picked in most settings; the first of a tie."""
    picked = choices.loc[choices.groupby(level=["attack", *setting]).idxmin()].reset_index()
    counts = picked[["attack", *axes]].value_counts(sort=False).sort_index()
    most = counts.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("attack")
    return Series([", ".join(labels) for labels in most[[*axes]].to_numpy()], most["attack"], dtype=object)


def _interval_columns(frame: DataFrame, setting: Sequence[str] = SETTING_AXES, prefix: str = "") -> DataFrame:
    ends = {
        attack: (interval.low, interval.high) if interval else (float("nan"),) * 2
        for attack, interval in headline_intervals(frame, setting).items()
    }
    columns = [f"{prefix}low", f"{prefix}high"]
    return DataFrame.from_dict(ends, orient="index", columns=columns, dtype=float)


def _transfer_columns(frame: DataFrame) -> DataFrame:
    names = ["transfer", "transfer_low", "transfer_high", "transfer_choice"]
    unlike = frame[~frame["knows_backbone"]]
    if not len(unlike):
        return DataFrame(columns=names)
    rows = add_protection(unlike, TRANSFER_AXES)
    choices = protection_by_choice(cell_rows(rows), TRANSFER_AXES)
    picks = _most_frequent_pick(choices, TRANSFER_AXES, ["backbone", "defense"])
    columns = {"transfer": headline(choices, TRANSFER_AXES), "transfer_choice": picks}
    intervals = _interval_columns(rows, TRANSFER_AXES, "transfer_")
    return concat([DataFrame(columns), intervals], axis=1)[names]


def _count_columns(cells: DataFrame) -> DataFrame:
    return cells.groupby("attack").agg(
        cells=("key", "size"), undefined=("undefined", "sum"), unpaired=("unpaired", "sum")
    )


def _raw_columns(frame: DataFrame) -> DataFrame:
    frame = frame[["attack", "defense", "headline", "key", "raw"]]
    undefended = frame["defense"] == NO_DEFENSE
    rows = frame[undefended | ~undefended.groupby(frame["attack"]).transform("any")]
    # The mean of a cell is taken first, so that a dataset with many tasks does not outweigh one with few.
    per_cell = rows.groupby(["attack", "headline", "key"])["raw"].mean()
    return per_cell.groupby(level=["attack", "headline"]).mean().unstack().add_prefix(RAW)
