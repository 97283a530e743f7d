"""What has changed since a reference: every number against a tolerance from its spread over seeds.

On the machine of the reference, unchanged code gives exactly the same numbers. Another machine adds numbers
in another order; a training then takes another path, and its result differs as much as that of another seed.
So a difference counts if it is larger than seeds explain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pandas import DataFrame
from scipy.special import ndtri, stdtrit

from bench.errors import BenchError
from bench.record import Record, is_clean
from leaderboard.frame import select_records
from leaderboard.reference import COSTS, SECONDS, cell_label, collect_items

FALSE_ALARMS = 0.01
"""Probability of at least one false alarm in a check on another machine, shared out among all numbers."""

MARGIN = 1.2
"""Factor on the tolerance of a number: t assumes equal and normal spreads, and some trainings end in one of
two states. With other seeds, the largest of 638 differences in the nightly suite was 1.08 times what t gives.
"""

MIN_FREEDOM = 20
"""Degrees of freedom below which a spread is pooled over more items.

For a family of 2,000 numbers the t quantile is 6.2 with 20 degrees of freedom, 15 with 6, and 4.6 if the
spread were known.
"""

ROUNDING = 1e-4
"""Differences up to this part of a value (or of 1) never count: another library rounds in another way."""

COST_FACTOR = 2.0
"""A cost that is less than this multiple of the expected one never counts, however even the others are."""

MIN_SECONDS = 1.0
"""Shorter phases count as this long, and not at all if both are shorter: they mostly measure start-up."""

Verdict = Literal["ok", "changed", "regressed", "improved", "missing", "new", "failed"]

FAILING_VERDICTS: frozenset[Verdict] = frozenset({"changed", "regressed", "missing", "failed"})
"""Verdicts that make a check fail."""

_NUMBER = ["item", "quantity"]


@dataclass(frozen=True)
class Change:
    """One number of one item, in the reference and now.

    Attributes:
        item: label of the dataset, poison or cell, without the seed.
        quantity: a metric of a task, ``score``, a cost, ..., or ``item`` for the item as a whole.
        reference: the mean over the seeds that both have.
        now: the same mean in the run.
        tolerance: the largest difference that is accepted, in both directions; for a cost, the largest value.
        verdict: the check fails if it is one of `FAILING_VERDICTS`.
    """

    item: str
    quantity: str
    reference: float | None
    now: float | None
    tolerance: float | None
    verdict: Verdict

    @property
    def fails(self) -> bool:
        """Whether this makes the check fail."""
        return self.verdict in FAILING_VERDICTS


def check_against_reference(reference: Mapping[str, Any], records: Iterable[Record]) -> list[Change]:
    """Compare records with a reference, number by number, sorted by item.

    Any difference beyond the tolerance makes the check fail, also one for the better: a score that rises
    without a reason is an error as well. Of costs only those that rise fail; they are compared on the same
    kind of device only. Items and numbers of the reference that are missing or failed make the check fail;
    new ones do not.

    Raises:
        BenchError: if the records follow another protocol than the reference.
    """
    selected = select_records(records)
    for record in selected.done[:1]:
        if record.protocol != reference["protocol"]:
            raise BenchError(
                f"the reference follows protocol {reference['protocol']} and the records protocol "
                f"{record.protocol}, which cannot be compared; make the reference anew with --update"
            )
    then, now = reference["items"], collect_items(selected.done)
    failed = {cell_label(record) for record in selected.failed}
    both = [label for label in then if label in now and label not in failed]
    labels: dict[Verdict, Iterable[str]] = {
        "failed": failed,
        "missing": then.keys() - now.keys() - failed,
        "new": now.keys() - then.keys() - failed,
    }
    changes = [
        Change(label, "item", None, None, None, verdict) for verdict in labels for label in labels[verdict]
    ]
    old, new = _to_table(then), _to_table({label: now[label] for label in both})
    devices = {record.environment.get("device") for record in selected.done}
    changes += _compare_numbers(old[~old["is_cost"]], new[~new["is_cost"]], both)
    if devices == {reference["environment"].get("device")}:
        changes += _compare_costs(old[old["is_cost"]], new[new["is_cost"]])
    return sorted(changes, key=lambda change: change.item)


def _to_table(items: Mapping[str, Any]) -> DataFrame:
    """Return the known numbers of items, one row per seed."""
    rows = [
        (label, item["dataset"], item["attack"], seed, quantity, value)
        for label, item in items.items()
        for seed, numbers in item["seeds"].items()
        for quantity, value in numbers.items()
        if value is not None
    ]
    table = DataFrame(rows, columns=["item", "dataset", "attack", "seed", "quantity", "value"])
    return table.assign(is_cost=table["quantity"].isin(COSTS))


def measure_spreads(table: DataFrame) -> DataFrame:
    """Return, for every item and quantity, the standard deviation over seeds: ``spread`` and ``freedom``.

    It is the larger of two pooled ones. The first is of the same attack on the same dataset, since some
    poisons differ much from seed to seed. The second is of all attacks on the dataset, or of its clean cells,
    since few seeds can look steady by chance; it is pooled over more items where it has less than
    `MIN_FREEDOM` degrees of freedom, which are those returned. Without two seeds anywhere, the spread is 0.

    Args:
        table: item, dataset, attack, seed, quantity and value.
    """
    deviations = table["value"] - table.groupby(_NUMBER)["value"].transform("mean")
    numbers = (
        table.assign(squares=deviations**2, freedom=1)
        .groupby([*_NUMBER, "dataset", "attack"], sort=False)
        .agg({"squares": "sum", "freedom": "sum"})
        .reset_index()
    )
    numbers["freedom"] -= 1
    numbers["name"] = numbers["dataset"].str.partition("(")[0]
    numbers["clean"] = numbers["attack"].map(is_clean)
    own = _pool(numbers, "dataset", "attack")
    typical = _pool(numbers, "name", "clean")
    for keys in (("name",), ()):
        typical = typical.where(typical["freedom"] >= MIN_FREEDOM, _pool(numbers, *keys))
    variances = [pooled["squares"] / pooled["freedom"].clip(lower=1) for pooled in (own, typical)]
    numbers["spread"] = np.sqrt(np.max(variances, axis=0))
    numbers["freedom"] = typical["freedom"]
    return numbers.set_index(_NUMBER)[["spread", "freedom"]]


def _pool(numbers: DataFrame, *keys: str) -> DataFrame:
    """Return the sums of squares and degrees of freedom over the rows with the same keys and quantity."""
    return numbers.groupby([*keys, "quantity"])[["squares", "freedom"]].transform("sum")


def _pair_numbers(old: DataFrame, new: DataFrame) -> DataFrame:
    """Return the numbers that both have: ``then`` and ``now``, means over their shared ``seeds``; ``error``.

    The error is the standard deviation of the difference of the means if only the seeds differ.
    """
    pairs = old.merge(new, on=[*_NUMBER, "seed"], suffixes=("", "_now"))
    table = pairs.groupby(_NUMBER, sort=False).agg(
        then=("value", "mean"), now=("value_now", "mean"), seeds=("seed", "size")
    )
    table = table.join(measure_spreads(old))
    return table.assign(error=table["spread"] * np.sqrt(2 / table["seeds"]))


def _compare_numbers(old: DataFrame, new: DataFrame, both: Sequence[str]) -> list[Change]:
    table = _pair_numbers(old, new)
    errors = -stdtrit(table["freedom"], FALSE_ALARMS / max(len(table), 1) / 2)
    rounding = ROUNDING * table["then"].abs().clip(lower=1.0)
    table["tolerance"] = np.fmax(MARGIN * errors * table["error"], rounding)
    table["verdict"] = np.where((table["now"] - table["then"]).abs() > table["tolerance"], "changed", "ok")
    known = old[old["item"].isin(both)].groupby(_NUMBER, sort=False)["value"].mean().to_frame("then")
    gone = known[~known.index.isin(table.index)].assign(now=None, tolerance=None, verdict="missing")
    return [*_to_changes(table), *_to_changes(gone)]


def _compare_costs(old: DataFrame, new: DataFrame) -> list[Change]:
    """Compare costs with what the run's median ratio to the reference lets expect.

    A machine that is slower, or busier, takes longer for everything. What is left is compared with the spread
    of the ratios over all items (a robust one: 1.48 times the median distance from the median) and with that
    over seeds. Seconds and memory have a median each.
    """
    table = _pair_numbers(*(_log_costs(side) for side in (old, new)))
    table = table[table[["then", "now"]].max(axis=1) > np.log(MIN_SECONDS)].copy()
    is_time = table.index.get_level_values("quantity").isin(SECONDS)
    ratios = (table["now"] - table["then"]).groupby(is_time)
    rest = table["now"] - table["then"] - ratios.transform("median")
    noise = 1.4826 * rest.abs().groupby(is_time).transform("median")
    errors = -ndtri(FALSE_ALARMS / max(len(table), 1))
    margin = np.fmax(errors * np.fmax(noise, table["error"]), np.log(COST_FACTOR))
    table["verdict"] = np.select([rest > margin, rest < -margin], ["regressed", "improved"], "ok")
    table["tolerance"] = table["now"] - rest + margin
    return _to_changes(table.assign(**np.exp(table[["then", "now", "tolerance"]])))


def _log_costs(costs: DataFrame) -> DataFrame:
    shortest = costs["quantity"].isin(SECONDS) * MIN_SECONDS
    return costs.assign(value=np.log(costs["value"].clip(lower=shortest)))


def _to_changes(table: DataFrame) -> list[Change]:
    rows = table.reset_index()
    columns = (*_NUMBER, "then", "now", "tolerance", "verdict")
    return [Change(*row) for row in zip(*(rows[name] for name in columns), strict=True)]
