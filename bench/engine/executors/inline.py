"""Work in the current process, one item after the other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Self

from bench.engine.executors.base import I, NextItem, Outcome, R, ReportProgress, Work, attempt_item


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

    def map(
        self, work: Work[I, R], next_item: NextItem[I], report: ReportProgress[I]
    ) -> Iterator[Outcome[I, R]]:
        """Yield an outcome per item, in order."""
        while (item := next_item()) is not None:
            with _os_exit_fails_item():
                outcome = attempt_item(work, item, partial(report, item))
            yield outcome


@contextmanager
def _os_exit_fails_item() -> Iterator[None]:
    """Let `os._exit` in the block fail the item: it would end the run, with exit code 0 and cells undone."""
    pid, end_process = os.getpid(), os._exit

    def raise_exit(status: int) -> NoReturn:
        if os.getpid() != pid:  # a process that the item has forked
            end_process(status)
        raise SystemExit(status)

    os._exit = raise_exit
    try:
        yield
    finally:
        os._exit = end_process
