"""``bench track``."""

from typing import TYPE_CHECKING

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import find_run_folder, load_records, read_curves
from bench.cli.run_outputs import RunResults, collect_board, read_outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.record import Record


def track(
    out: options.RunFolderOption = None,
    track: options.TrackOption = None,
    tracking_uri: options.TrackingUriOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Copy the records of a run to MLflow or another tracker again. Nothing is stored twice."""
    from rich.console import Console
    from rich.progress import track as show_bar

    from bench.engine.tracking.destinations import find_destinations
    from bench.engine.tracking.listener import rebuild_mirror

    folder = find_run_folder(out)
    destinations = find_destinations(track, folder, tracking_uri)
    records = load_records(folder)
    results = RunResults(folder, records)
    board = collect_board(results, read_outputs(results))
    screen = Console(stderr=True)

    def read_oldest_first() -> "Iterator[Record]":
        ordered = sorted(records, key=lambda record: record.finished)
        yield from show_bar(
            read_curves(folder, ordered),
            "tracking",
            len(records),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )

    mirrors = [
        {"place": destination.place, "added": 0, "replaced": 0, "kept": 0}
        | rebuild_mirror(destination, read_oldest_first(), board)
        for destination in destinations
    ]
    if json_:
        print_json({"mirrors": mirrors})
        return
    for mirror in mirrors:
        print("{place}: {added} runs added, {replaced} replaced, {kept} kept".format(**mirror))
