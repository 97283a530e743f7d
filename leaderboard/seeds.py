"""What the seeds of a board draw anew: the images, the poison, the victim."""

from collections.abc import Iterable

from bench.record import AXES, Record

DRAWS = ("images", "poison", "victim")
"""What a seed can draw anew: split and selection of the images, the poison, the training of the victim."""


def varied_draws(records: Iterable[Record]) -> list[str]:
    """Return which of `DRAWS` differ between the seeds of cells that are otherwise equal, in that order."""
    first: dict[tuple[object, ...], tuple[object, ...]] = {}
    varied = set()
    for record in records:
        labels = tuple(record.cell[axis] for axis in AXES if axis != "seed")
        poison_seed = record.settings.get("poison_seed", record.poison)
        drawn = (record.settings.get("dataset"), poison_seed, record.cell["seed"])
        before = first.setdefault(labels, drawn)
        varied |= {draw for draw, one, other in zip(DRAWS, before, drawn, strict=True) if one != other}
    return [draw for draw in DRAWS if draw in varied]
