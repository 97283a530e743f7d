"""Real `bench run` processes to do harm to: quickly started, killed at a chosen moment.

A fork server has imported everything once. Each run is a process of its own, with its own signals and in a
session of its own; only its start is cheaper than that of the command.
"""

import itertools
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import rich.live  # noqa: F401 - so that the fork server has it, as the other unused imports
import sklearn.datasets  # noqa: F401
import tabulate  # noqa: F401
from pandas import DataFrame
from pandas.testing import assert_frame_equal

import bench.cli
import bench.tasks.metrics
from bench import torchvision_import
from bench.api import CraftContext, Norm
from bench.catalog.parts import CATALOG, catalog_entries
from bench.engine.execution import runner
from bench.engine.stages import evaluate
from bench.engine.storage.store import POISONS, RECORDS, SURROGATES, Stamp, Store
from bench.values import Progress, Split
from leaderboard import board  # noqa: F401
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_attacks
from tests.engine import tiny

KILLS = int(os.environ.get("MTLUE_KILLS", "12"))
"""How often a run is killed in all; workers, and nodes of a cluster, a twelfth as often each."""

PATIENCE_S = 120
"""A wait ends when what it is for happens; this only keeps a broken test from going on for ever."""

torchvision_import.import_submodules()
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", __name__])

_WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "fcntl.lockf"}


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return what the condition does, once that is true."""
    for _ in range(PATIENCE_S * 100):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@dataclass(frozen=True)
class Hanging:
    """An attack that never ends."""

    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> object:
        time.sleep(PATIENCE_S)
        raise AssertionError("nobody ended it")


@dataclass(frozen=True)
class Harm:
    """What befalls a run from within.

    Attributes:
        kill_at: it is killed right before its own process changes a file in its folder, or a lock, for so
            manieth time; 0: never.
        file_bytes: no file can grow beyond that; 0: all can.
        clock: the wall clock goes that many seconds back and forth, at every look.
    """

    kill_at: int = 0
    file_bytes: int = 0
    clock: float = 0.0


@dataclass(frozen=True)
class Run:
    """A started `bench run`."""

    process: Any
    told: Path

    @property
    def text(self) -> str:
        """What it has written to its outputs."""
        return self.told.read_text() if self.told.exists() else ""

    def wait_for(self, words: str) -> None:
        """Wait until it has said something."""

        def said() -> bool:
            alive = self.process.is_alive()
            if words in self.text:
                return True
            assert alive, self.text
            return False

        wait_for(said)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to it alone."""
        os.kill(self.process.pid, how)

    def end(self) -> int:
        """Wait for its end; return its exit code, negative for a signal's."""
        self.process.join(PATIENCE_S)
        assert self.process.exitcode is not None, self.text
        return int(self.process.exitcode)


def start(
    suite: Path,
    out: Path,
    *options: str,
    harm: Harm = Harm(),
    ledger: Path | None = None,
) -> Run:
    """Start a run; what it begins and ends is noted in the ledger, which several can share.

    What it says and the decoded images are kept beside the suite.
    """
    beside = suite.parent
    arguments = ["run", "--suite", str(suite), "--out", str(out), "--cache", str(beside / "cache")]
    arguments += ["--device", "cpu", "--no-track", *options]
    if "--executor" not in options:
        arguments += ["--executor", "inline"]
    told = beside / f"told.{len(list(beside.glob('told.*')))}"
    told.touch()
    process = FORKS.Process(target=_serve, args=(arguments, out, told, harm, ledger))
    process.start()
    return Run(process, told)


def _serve(arguments: list[str], out: Path, told: Path, harm: Harm, ledger: Path | None) -> None:
    os.setsid()
    output = os.open(told, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    run_command(arguments, out, harm, ledger)


def run_command(arguments: list[str], out: Path, harm: Harm, ledger: Path | None = None) -> None:
    """Do what the command does, and end this process as it does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    CATALOG["attack"]["hanging"] = f"{__name__}:{Hanging.__name__}"
    catalog_entries.cache_clear()
    if ledger is not None:
        for kind, work in runner.WORK.items():
            runner.WORK[kind] = partial(_note, ledger, work)
    if harm.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (harm.file_bytes, harm.file_bytes))
    if harm.clock:
        _shake_clock(harm.clock)
    if harm.kill_at:
        _kill_at(out, harm.kill_at)
    sys.argv = ["bench", *arguments]
    bench.cli.main()


def _note(ledger: Path, work: Callable[..., Any], item: Any, run_context: Any, progress: Progress) -> Any:
    with ledger.open("a") as file:
        file.write(f"begun {item.key}\n")
    result = work(item, run_context, progress)
    with ledger.open("a") as file:
        file.write(f"done {item.key}\n")
    return result


def _kill_at(out: Path, event: int) -> None:
    seen = 0

    def count(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if name == "open":
            path, _, flags = arguments
            counts = str(path).startswith(str(out)) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            counts = name in _WRITES and (name == "fcntl.lockf" or str(arguments[0]).startswith(str(out)))
        seen += bool(counts)
        if counts and seen == event:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _shake_clock(seconds: float) -> None:
    """Let every look at the wall clock see it a long way ahead or behind, in turns."""
    jumps = itertools.cycle((seconds, -seconds))
    now = time.time

    class Shaken(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=next(jumps))

    time.time = lambda: now() + next(jumps)
    for module in (runner, evaluate):
        module.datetime = Shaken


def write_suite(path: Path, **matrix: Any) -> Path:
    """Write the tiny suite with some axes changed."""
    text = tiny.TOML
    for axis, values in matrix.items():
        text = re.sub(rf"^{axis} = .*$", f"{axis} = {values}", text, count=1, flags=re.MULTILINE)
    path.write_text(text)
    return path


def scores(out: Path) -> DataFrame:
    """Return the rows of the csv without what is measured in seconds and bytes."""
    frame = to_frame(tiny.records(out).values())
    return frame[[column for column in frame.columns if not column.endswith(("_s", "_mb"))]]


def ranks(out: Path) -> DataFrame:
    """Return the ranking without what was measured in seconds and bytes."""
    table = rank_attacks(to_frame(tiny.records(out).values()))
    return table[[column for column in table.columns if not column.startswith("craft_")]]


def assert_same(out: Path, unbroken: Path) -> None:
    """Compare a folder with that of a run nothing happened to: numbers bit by bit, and what is there."""
    assert tiny.results(out) == tiny.results(unbroken)
    assert_frame_equal(scores(out), scores(unbroken), check_exact=True)
    assert_frame_equal(ranks(out), ranks(unbroken), check_exact=True)
    for kind in (RECORDS, POISONS, SURROGATES):
        assert names(out / kind) == names(unbroken / kind)
    for kind in (POISONS, SURROGATES):
        for key in names(out / kind):
            theirs = (unbroken / kind / key / "tensors.safetensors").read_bytes()
            assert (out / kind / key / "tensors.safetensors").read_bytes() == theirs


def names(folder: Path) -> set[str]:
    """Return the names in a folder, hidden ones too; none where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def finished(out: Path) -> dict[Path, Stamp]:
    """Return what a run has finished, each thing whole, with its stamp."""
    store, found = Store(out), {}
    for kind in (RECORDS, POISONS, SURROGATES):
        for name in names(out / kind):
            if name.startswith("."):  # it was being written
                continue
            key = name.removesuffix(".json")
            if kind == RECORDS:
                assert store.read_record(key) is not None
            else:
                assert store.verify(kind, key)
            stamp = store.stamp(kind, key)
            assert stamp is not None
            found[out / kind / key] = stamp
    return found
