"""Labels of items without what all items have in common, so that the differences fit a line."""

from collections.abc import Sequence
from dataclasses import dataclass

SEPARATOR = " · "
"""Between the parts of a label."""


@dataclass(frozen=True)
class ShortLabels:
    """Shortens the labels of one kind of items.

    Attributes:
        common: the parts that every label has in the same place; None where labels differ.
    """

    common: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, labels: Sequence[str]) -> "ShortLabels":
        """Find what labels have in common; nothing if there is only one, or if their lengths differ."""
        split = [label.split(SEPARATOR) for label in labels]
        if len(labels) < 2 or len(set(map(len, split))) > 1:
            return cls()
        places = zip(*split, strict=True)
        return cls(tuple(parts[0] if len(set(parts)) == 1 else None for parts in places))

    def shorten(self, label: str) -> str:
        """Return a label without the common parts; all of it if nothing would be left."""
        parts = label.split(SEPARATOR)
        if len(parts) != len(self.common):
            return label
        kept = [part for part, common in zip(parts, self.common, strict=True) if part != common]
        return SEPARATOR.join(kept) or label

    def __str__(self) -> str:
        """Return the common parts as a label."""
        return SEPARATOR.join(filter(None, self.common))
