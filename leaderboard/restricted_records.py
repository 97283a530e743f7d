"""Some of the records of a run, as if it had been run with ``--only``."""

from collections.abc import Sequence

from bench.catalog.choice import Choice
from bench.catalog.restriction import parse_restriction
from bench.errors import BenchError
from bench.record import CLEAN, NO_DEFENSE, Record, is_clean


def restrict_records(records: Sequence[Record], only: Sequence[str]) -> list[Record]:
    """Return the records with the wanted values of axes, and the clean ones they are compared with.

    Args:
        records: of a run.
        only: ``AXIS=a,b`` each; a value is a label, or the name of a part, which stands for all its variants.

    Raises:
        BenchError: for another form, and for an axis or a value that no record has.
    """

    def known_names(axis: str) -> set[str]:
        return set[str]().union(*(_names_of_label(str(record.cell[axis])) for record in records))

    kept = list(records)
    for text in only:
        axis, wanted = parse_restriction(text, known_names, "these results")
        kept = [
            record
            for record in kept
            if wanted & _names_of_label(str(record.cell[axis])) or _is_reference_for(record, axis)
        ]
    return kept


def _is_reference_for(record: Record, axis: str) -> bool:
    """Return whether a record is kept whatever the axis is restricted to: others are compared with it."""
    attack = str(record.cell["attack"])
    return (axis == "attack" and is_clean(attack)) or (
        axis == "defense" and attack == CLEAN and record.cell["defense"] == NO_DEFENSE
    )


def _names_of_label(label: str) -> set[str]:
    try:
        return {label, Choice.parse(label).name}
    except BenchError:  # a number, or what somebody has written into a record
        return {label}
