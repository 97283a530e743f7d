"""Work in the current process, one item after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self

from bench.engine.executors.base import I, Outcome, R, ReportProgress, Work, attempt_item


@dataclass(frozen=True)
class Inline:
    """Everything in this process, one item after the other."""

    threads: int = 1

    def __enter__(self) -> Self:
        import torch

        torch.set_num_threads(self.threads)
        return self

    def __exit__(self, *error: object) -> None:
        """There are no workers to end."""

    def map(self, work: Work[I, R], items: Iterable[I], report: ReportProgress[I]) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, in order."""
        for item in items:
            yield attempt_item(work, item, partial(report, item))
