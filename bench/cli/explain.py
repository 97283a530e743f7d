"""``bench explain``."""

from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run_folder import find_run_folder
from bench.errors import BenchError
from bench.record import Record, read_records


def explain(
    cell: Annotated[
        list[str],
        typer.Argument(
            metavar="CELL",
            help="The beginning of the cell's key, or words from its label, such as: em jpeg 'seed 0'.",
        ),
    ],
    out: options.RunFolderOption = None,
) -> None:
    """Explain a cell: its scores, error, settings, poison and surrogate, and the end of its log.

    The key of a poison or a surrogate works too.
    """
    from bench.engine.monitoring.explain import (
        explain_cell,
        explain_shared,
        find_clean_record,
        find_items,
        list_items,
    )
    from leaderboard.live_ranking import protection_by_task

    folder = find_run_folder(out)
    items = find_items(folder, cell)
    if len(items) > 1:
        print(list_items(items))
        raise BenchError(f"{' '.join(cell)!r} matches {len(items)} items; give more words or a key")
    record = items[0].record
    if record is None:
        print(explain_shared(items[0], folder))
        return
    others = (other for other in read_records(folder / "records", curve=False) if isinstance(other, Record))
    protections = protection_by_task(record, others)
    print(explain_cell(record, folder, find_clean_record(folder, record), protections))
