"""The options and arguments that several commands have in common."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli import completion

SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        metavar="NAME",
        help="The name of a suite (see `bench list suite`) or a suite file.",
        autocompletion=completion.complete_suite,
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="AXIS=a,b",
        help="Run only these values of an axis, and the clean cells they are compared with. Can be repeated.",
        autocompletion=completion.complete_axis_values,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the suite, such as recipe.epochs=5. Can be repeated.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="The folder of the run.", show_default="runs/SUITE"),
]
RunFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="The folder of the run.", show_default="the latest in runs/"
    ),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER|FILE",
        help="The folder of the run, or an archive that bench report wrote.",
        show_default="the latest in runs/",
    ),
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", metavar="FOLDER", help="The folder with the datasets.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="FOLDER",
        envvar="MTLUE_CACHE",
        help="The folder for decoded images, shared by all runs.",
        show_default="the user's cache folder",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        min=1,
        help="How many workers run at the same time. On several GPUs, each worker gets the one with the "
        "most free memory per worker.",
        show_default="one per CPU core or GPU; ray: as many as fit; slurm: 16",
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="The device to compute on.")
]
ExecutorOption = Annotated[
    Literal["auto", "inline", "processes", "ray", "slurm"],
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Where the work runs. inline: in this process; processes: in worker processes; auto: inline "
        "if one worker is enough, else processes; ray, slurm: on a cluster.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        rich_help_panel="Cluster",
        metavar="HOST:PORT",
        help="The Ray cluster to join. auto: the cluster that this machine belongs to.",
        show_default="a new Ray on this machine",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        metavar="N",
        rich_help_panel="Cluster",
        min=0,
        help="GPUs per Ray worker. With 0.25, four workers share one GPU.",
        show_default="1 with --device cuda, else 0",
    ),
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        rich_help_panel="Cluster",
        metavar="KEY=VALUE",
        help="An option of Slurm's sbatch, such as partition=long. Can be repeated.",
    ),
]
RerunOption = Annotated[
    Literal["failed", "all", "none"],
    typer.Option("--rerun", help="Which of the cells that have a record to run again."),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Where to show the records, besides the leaderboard: mlflow, tensorboard or wandb. Can be "
        "repeated; docs/tracking.md says what each needs.",
        show_default="mlflow",
    ),
]
TrackingUriOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="The MLflow tracking URI.",
        show_default="SQLite in the run's folder",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="The file to write.", show_default="standard output"),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document instead; docs/json.md has its keys."),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A dataset, written as in suites, such as 'utkface(size=36)'.",
        autocompletion=completion.complete_dataset,
    ),
]
