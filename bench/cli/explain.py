"""``bench explain``."""

from typing import Annotated

import typer

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import find_run_folder, print_result
from bench.errors import BenchError
from bench.record import Record, read_records
from bench.table import terminal_width


def explain(
    cell: Annotated[
        list[str],
        typer.Argument(
            metavar="CELL",
            help="The beginning of the cell's key, or words from its label, such as: em jpeg 'seed 0'.",
        ),
    ],
    out: options.RunFolderOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Explain a cell: its scores, error, settings, poison and surrogate, and the end of its log.

    The key of a poison or a surrogate works too.
    """
    from bench.engine.monitoring.explain import (
        explain_as_mapping,
        explain_cell,
        explain_shared,
        find_clean_record,
        find_items,
        list_items,
    )
    from leaderboard.cell_protection import protection_by_task

    folder, width = find_run_folder(out), terminal_width()
    items = find_items(folder, cell)
    if len(items) > 1:
        if not json_:
            print_result(list_items(items, width))
        raise BenchError(f"{' '.join(cell)!r} matches {len(items)} items; give more words or a key")
    (item,) = items
    clean, protections = None, dict[str, float]()
    if item.record is not None:
        others = (
            other for other in read_records(folder / "records", curve=False) if isinstance(other, Record)
        )
        protections = protection_by_task(item.record, others)
        clean = find_clean_record(folder, item.record)
    if json_:
        print_json(explain_as_mapping(item, folder, clean, protections))
    elif item.record is not None:
        print_result(explain_cell(item.record, folder, clean, protections, width))
    else:
        print_result(explain_shared(item, folder, width))
