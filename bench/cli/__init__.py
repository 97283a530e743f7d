"""The command line: each command parses its options, calls the library, and prints.

Heavy libraries are imported inside the commands, so that help and completion stay fast.
"""

import contextlib
import errno
import os
import signal
import stat
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

import bench
from bench.cli import (
    catalog,
    check,
    compare,
    conform,
    data,
    explain,
    plan,
    plot,
    report,
    run,
    scaling,
    status,
    track,
)
from bench.cli.run_folder import print_message
from bench.errors import BenchError

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version and exit, if that is wanted."""
    if wanted:
        print(f"mtlue-bench {bench.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Benchmark and leaderboard of unlearnable examples for multi-task learning."""


app.command()(run.run)
app.command()(plan.plan)
app.command()(status.status)
app.command()(explain.explain)
app.command("why", hidden=True)(explain.explain)
app.command()(report.report)
app.command()(compare.compare)
app.command()(plot.plot)
app.command()(check.check)
app.command("list")(catalog.list_parts)
app.command("show")(catalog.show_part)
app.command()(conform.conform)
app.command()(track.track)
app.command()(scaling.scaling)
app.add_typer(data.app, name="data")


def find_foreign_exit(error: SystemExit) -> str | None:
    """Return the file and line of the code that ended the program; None if a command ended it itself.

    A part that calls ``sys.exit(0)`` while it is imported or loaded must not look like a success.
    """
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    if frame.f_globals.get("__name__", "").startswith((__name__, typer.__name__)):
        return None
    return f"{frame.f_code.co_filename}, line {line},"


def is_terminal_gone() -> bool:
    """Return whether the terminal of standard error was closed, without a signal that ended this program."""
    return stat.S_ISCHR(os.fstat(2).st_mode) and not os.isatty(2)


def main() -> NoReturn:
    """Run the command line. An error that the user can fix is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal does not know is no error. A stream that began as a file and was led
        # to a terminal later cannot be set.
        with contextlib.suppress(OSError):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
    try:
        app(prog_name="bench")
    except BenchError as error:
        print_message(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:  # the reader of the pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.EIO or not is_terminal_gone():
            raise
        os._exit(128 + signal.SIGHUP)  # as if the signal had ended it: no output can be flushed any more
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich turns one into an exit of its own
            sys.exit(141)
        if (caller := find_foreign_exit(error)) is None:
            raise
        print_message(f"error: {caller} ended the program with sys.exit({error.code}); only a command may")
        sys.exit(2)
    raise AssertionError("typer exits by itself")
