"""The order in which tables list the attacks, and the mark of those without a budget."""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

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
