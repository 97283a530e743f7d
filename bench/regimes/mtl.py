"""One network for all tasks."""

from dataclasses import dataclass
from typing import ClassVar

from bench.api import Task


@dataclass(frozen=True)
class MultiTask:
    """One network for all tasks.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1, column "MTL"
    """

    version: ClassVar[int] = 1

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Return all tasks as one group."""
        return (tasks,)
