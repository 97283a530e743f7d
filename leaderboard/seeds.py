"""What the seeds of a board draw anew: the images, the poison, the victim."""

from collections import defaultdict
from collections.abc import Iterable

from bench.files import hash_json
from bench.record import AXES, Record

DRAWS = ("images", "poison", "victim")
"""What a seed can draw anew: split and selection of the images, the poison, the training of the victim."""


def varied_draws(records: Iterable[Record]) -> list[str]:
    """Return which of `DRAWS` differ between the seeds of cells that are otherwise equal, in that order."""
    drawn: defaultdict[tuple[object, ...], list[dict[str, str]]] = defaultdict(list)
    for record in records:
        labels = tuple(record.cell[axis] for axis in AXES if axis != "seed")
        settings = record.settings
        drawn[labels].append(
            {
                "images": hash_json(settings.get("dataset")),
                "poison": str(settings.get("poison_seed", record.poison)),
                "victim": str(record.cell["seed"]),
            }
        )
    return [
        draw for draw in DRAWS if any(len({each[draw] for each in cells}) > 1 for cells in drawn.values())
    ]
