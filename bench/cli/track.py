"""``bench track``."""

from bench.cli import options
from bench.cli.json_output import print_json
from bench.cli.run_folder import find_run_folder, load_records, read_curves
from bench.cli.run_outputs import collect_artifacts, read_outputs


def track(
    out: options.RunFolderOption = None,
    tracking_uri: options.TrackingUriOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Copy the records of a run to MLflow again. Nothing is stored twice."""
    from rich.console import Console
    from rich.progress import track as show_bar

    from bench.engine.tracking.listener import rebuild_mirror
    from bench.engine.tracking.mlflow_store import default_uri

    folder = find_run_folder(out)
    uri = tracking_uri or default_uri(folder)
    records = load_records(folder)
    oldest_first = read_curves(folder, sorted(records, key=lambda record: record.finished))
    screen = Console(stderr=True)
    added, kept, replaced = rebuild_mirror(
        uri,
        show_bar(
            oldest_first,
            "tracking",
            len(records),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        ),
        folder / "mlartifacts",
        lambda: collect_artifacts(records, read_outputs(folder, records)),
    )
    if json_:
        print_json({"uri": uri, "added": added, "replaced": replaced, "kept": kept})
        return
    print(f"{uri}: {added} runs added, {replaced} replaced, {kept} kept")
