"""The protection of one cell, from its record and that of its clean counterpart. Standard library only."""

from bench.record import CLEAN, Record, Scores

MIN_HEADROOM = 0.05
"""Least part of the range from floor to perfect that a clean victim must have learned.

Protection divides by what the clean victim learned. At 0.05 an error of one hundredth of the range already
moves protection by 0.2; below it the quotient shows the seed and not the attack.
"""


def is_clean(attack: str) -> bool:
    """Return whether an attack's label is that of ``clean``, with or without a rate."""
    return attack.partition("(")[0].strip() == CLEAN


def protections(record: Record, clean: Scores) -> dict[str, float]:
    """Return the protection of a cell's tasks, as the tables have it, where it is defined.

    Args:
        record: the cell, finished.
        clean: the scores of its clean counterpart, which has the same victim.
    """
    found = {}
    for task, info in record.tasks.items():
        metric = info["scored"]
        floor, width = info["floor"][metric], info["perfect"][metric] - info["floor"][metric]
        score, reference = record.scores[task][metric], clean.get(task, {}).get(metric)
        if score is None or reference is None or not width:
            continue
        learned = reference - floor
        if learned / width >= MIN_HEADROOM:
            found[task] = (reference - score) / learned
    return found
