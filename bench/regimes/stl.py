"""One network per task."""

from dataclasses import dataclass
from typing import ClassVar

from bench.api import Task


@dataclass(frozen=True)
class SingleTask:
    """One network per task, all trained on the same poisoned set, for ``stl_epochs``.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, column "STL"; the epochs are those of its public code

    Departs from the public code: class-wise noise is drawn once, not anew for every network.
    """

    version: ClassVar[int] = 1

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Return every task as a group of its own."""
        return tuple((task,) for task in tasks)
