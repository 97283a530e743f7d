"""Rank the attacks, and list them in the order of the ranking in every table."""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from pandas import DataFrame, Series, concat

from bench.record import AXES, CLEAN
from leaderboard.formatting import metric_order
from leaderboard.rows import NO_DEFENSE, cell_rows, full_protection_rows
from leaderboard.scores import SETTING_AXES

if TYPE_CHECKING:
    from pandas.api.typing import SeriesGroupBy

DAGGER = "†"
"""Marks an attack of the unbounded track in tables that show both tracks."""

_COLUMNS = [*AXES, "key", "bounded", "partial", "paired", "defined", "protection"]
"""Columns of a tidy table that the order of the attacks depends on."""


def group_by_setting(cells: DataFrame) -> "SeriesGroupBy[Any, tuple[Hashable, ...]]":
    """Return the defined protections, one group for all cells that differ in the defense only."""
    return cells[cells["protection"].notna()].groupby(["attack", *SETTING_AXES])["protection"]


def worst_and_mean_protection(cells: DataFrame) -> DataFrame:
    """Return, by attack, ``worst`` and ``mean`` protection over the defenses, NaN if none is defined.

    For each setting of the other axes the worst case and the mean over its defenses are taken, and then the
    means over all settings.
    """
    groups = group_by_setting(cells)
    found = DataFrame({"worst": groups.min(), "mean": groups.mean()}).groupby(level="attack").mean()
    return found.reindex(sorted(set(cells["attack"])))


def sort_attacks(by_attack: DataFrame) -> DataFrame:
    """Return a table indexed by attack with a column ``attack``: best first, ``clean`` last."""
    table = by_attack.rename_axis("attack").reset_index()
    table["clean"] = table["attack"] == CLEAN
    order = ["clean", "worst", "mean", "attack"]
    table = table.sort_values(order, ascending=[True, False, False, True], ignore_index=True)
    return table.drop(columns="clean")


def attack_order(frame: DataFrame) -> list[str]:
    """Return the attacks in the order of the rankings: ``clean``, those with a budget, those without."""
    cells = cell_rows(full_protection_rows(frame[_COLUMNS]))
    order = [CLEAN] if (cells["attack"] == CLEAN).any() else []
    for bounded in (True, False):
        track = cells[(cells["bounded"] == bounded) & (cells["attack"] != CLEAN)]
        order.extend(sort_attacks(worst_and_mean_protection(track))["attack"])
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


def unbounded_marker(frame: DataFrame) -> Callable[[str], str]:
    """Return a function that marks attacks of the unbounded track with a dagger."""
    unbounded = set(frame.loc[~frame["bounded"], "attack"])
    return lambda attack: f"{attack} {DAGGER}" if attack in unbounded else attack


RAW = "raw_"
"""Prefix of the column of a headline metric."""


def rank_attacks(frame: DataFrame, bounded: bool = True) -> DataFrame:
    """Rank the attacks of one track by their worst case over the defenses.

    For every dataset, backbone, weighting, regime and seed the lowest protection over the defenses that were
    run is taken, and then the mean of these. A setting with a single defense counts with that one.
    Attacks on some of the images or tasks only are not ranked.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        bounded: rank the attacks that keep to the budget; otherwise those without a budget.

    Returns:
        One row per attack, best first, ``clean`` last:
        ``rank`` (missing for clean and for attacks without a defined protection), ``attack``, ``worst``,
        ``worst_defense`` (the defense that is worst most often), ``defenses_min`` and ``defenses_max`` (how
        many defenses a worst case is taken over), ``mean`` (over defenses), ``spread`` (of ``worst``,
        standard deviation over seeds), ``cells``, ``undefined`` (tasks of cells), ``unpaired`` (cells), a
        ``raw_METRIC`` per headline metric (under defense ``none`` if it was run), ``craft_s``,
        ``craft_images_per_s``, ``craft_host_mb``, ``craft_device_mb`` (means over distinct poisons) and
        ``linf`` (largest, in steps of 1/255).
    """
    frame = full_protection_rows(frame)
    frame = frame[(frame["bounded"] == bounded) | (frame["attack"] == CLEAN)]
    if not len(frame):
        return DataFrame(columns=["rank", "attack", "worst", "spread"])
    cells = cell_rows(frame)
    columns = [worst_and_mean_protection(cells), _worst_case_columns(cells), _count_columns(cells)]
    table = sort_attacks(concat([*columns, _raw_columns(frame), _craft_columns(cells)], axis=1))
    # An attack without a defined protection has no worst case, so none over any defense.
    counts = ["defenses_min", "defenses_max"]
    table[counts] = table[counts].fillna(0).astype(int)
    is_ranked = (table["attack"] != CLEAN) & table["worst"].notna()
    table.insert(0, "rank", is_ranked.cumsum().where(is_ranked).astype("Int64"))
    return table


def _worst_case_columns(cells: DataFrame) -> DataFrame:
    groups = group_by_setting(cells)
    worst, counts = groups.min(), groups.size().groupby(level="attack")
    defenses = cells.loc[groups.idxmin(), ["attack", "defense"]].value_counts(sort=False).sort_index()
    # Sorted by name, then by frequency: of equally frequent defenses the first in the alphabet.
    most_often = defenses.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("attack")
    # Settings that were not run with every seed would look like a spread over seeds.
    spread = {
        attack: values.unstack("seed").dropna().mean().std(ddof=1)
        for attack, values in worst.groupby(level="attack")
    }
    return DataFrame(
        {
            "worst_defense": most_often.set_index("attack")["defense"],
            "defenses_min": counts.min(),
            "defenses_max": counts.max(),
            "spread": Series(spread, dtype=float),
        }
    )


def _count_columns(cells: DataFrame) -> DataFrame:
    return cells.groupby("attack").agg(
        cells=("key", "size"),
        undefined=("undefined", "sum"),
        unpaired=("unpaired", "sum"),
        linf=("linf", "max"),
    )


def _craft_columns(cells: DataFrame) -> DataFrame:
    poisons = cells.drop_duplicates(["attack", "poison"]).groupby("attack")
    return poisons[["craft_s", "craft_images_per_s", "craft_host_mb", "craft_device_mb"]].mean()


def _raw_columns(frame: DataFrame) -> DataFrame:
    frame = frame[["attack", "defense", "headline", "key", "raw"]]
    undefended = frame["defense"] == NO_DEFENSE
    rows = frame[undefended | ~undefended.groupby(frame["attack"]).transform("any")]
    # The mean of a cell is taken first, so that a dataset with many tasks does not outweigh one with few.
    per_cell = rows.groupby(["attack", "headline", "key"])["raw"].mean()
    return per_cell.groupby(level=["attack", "headline"]).mean().unstack().add_prefix(RAW)
