"""What a suite asks for and a plan leaves out, and why."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

MAX_EXAMPLES = 3
"""Most examples in a summary."""


@dataclass(frozen=True)
class Omission:
    """One thing that is left out.

    Attributes:
        reason: why, for several of them: "datasets are left out, since ...".
        what: which one.
        sentence: both in full, with what to do.
    """

    reason: str
    what: str
    sentence: str


def summarize_omissions(omissions: Sequence[Omission]) -> tuple[str, ...]:
    """Return one sentence per reason: with the count and the first examples, or in full if there is one."""
    by_reason: defaultdict[str, list[Omission]] = defaultdict(list)
    for omission in omissions:
        by_reason[omission.reason].append(omission)
    return tuple(map(_summarize_reason, by_reason.values()))


def _summarize_reason(omissions: Sequence[Omission]) -> str:
    first = omissions[0]
    if len(omissions) == 1:
        return first.sentence
    more = len(omissions) - MAX_EXAMPLES
    examples = ", ".join(omission.what for omission in omissions[:MAX_EXAMPLES])
    return f"{len(omissions)} {first.reason}: {examples}" + (f" and {more} more" if more > 0 else "")
