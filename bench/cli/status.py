"""``bench status``."""

from bench.cli import options
from bench.cli.run_folder import find_run_folder


def status(out: options.RunFolderOption = None) -> None:
    """Show what the active runs of a folder are doing right now. Works from any terminal."""
    from rich.console import Console

    from bench.engine.monitoring.status import explain_absence, read_statuses, render_status

    folder = find_run_folder(out)
    statuses = read_statuses(folder)
    active = [status for status in statuses if status.alive]
    screen = Console(highlight=False)
    for each in active:
        screen.print(render_status(each, folder, screen.width))
    if not active:
        print(explain_absence(statuses, folder))
