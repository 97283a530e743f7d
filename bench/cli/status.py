"""``bench status``."""

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import find_run_folder, print_result
from bench.table import fill_paragraphs, terminal_width


def status(out: options.RunFolderOption = None, json_: options.JsonOption = False) -> None:
    """Show what the active runs of a folder are doing right now. Works from any terminal."""
    from rich.console import Console

    from bench.engine.monitoring.status import count_records, explain_absence, read_statuses, render_status

    folder = find_run_folder(out)
    statuses = read_statuses(folder)
    if json_:
        print_json({"folder": str(folder), "records": count_records(folder), "runs": statuses})
        return
    active = [status for status in statuses if status.alive]
    screen = Console(highlight=False)
    for each in active:
        screen.print(render_status(each, folder, screen.width))
    if not active:
        print_result(fill_paragraphs(explain_absence(statuses, folder), terminal_width()))
