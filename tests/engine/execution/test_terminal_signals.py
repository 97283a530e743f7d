"""Signals to a run in the foreground of a terminal, and to its workers: the same numbers as without them.

`nox -s chaos -- -k at_any_moment` sends every signal sixty times to each, and shows what it counted.
"""

import contextlib
import multiprocessing
import os
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.engine.storage.store import Stamp
from tests.engine import tiny
from tests.engine.execution import chaos
from tests.engine.execution.chaos import FORKS, KILLS, Harm, assert_same, finished, write_suite

MATRIX = {"attack": ["clean", "tap"], "defense": ["none", "grayscale"]}

TRIES = KILLS // 5 if KILLS >= 100 else 1
"""Signals of each kind to the run, and to a worker."""

CPU_S = {"spawn": 8.0, "fork": 2.5}
"""Seconds of CPU time that a run takes with its workers. Moments are drawn in CPU time: on a busy machine,
those on the clock would all be at the start of a run."""

OUTLIVE_S = 2.0
"""How long a process of a run may outlive it."""

TO_RUN = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGSTOP", "close", "close disowned")
"""`close`: the terminal is closed. The shell sends SIGHUP to the run then, unless the run is disowned."""

TO_WORKER = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGSTOP")

ALL = [*((name, "run") for name in TO_RUN), *((name, "worker") for name in TO_WORKER)]
SENT = ALL if KILLS >= 100 else [("SIGINT", "run"), ("SIGKILL", "run"), ("SIGSTOP", "worker")]
"""What is sent to what; few kinds if few runs are killed, since each needs several runs."""


@dataclass
class TerminalRun:
    """A `bench run` in the foreground of a pseudo-terminal that a shell has opened.

    Attributes:
        shell: the leader of the terminal's session; it only starts the run and waits for it.
        pid: the run.
        terminal: the end of the terminal that the user sees.
        code: the run's exit code, negative for a signal; None while it is running.
    """

    shell: Any
    pid: int
    terminal: int
    answers: Any
    code: int | None = None
    is_closed: threading.Event = field(default_factory=threading.Event)
    shown: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What it has written to the terminal."""
        return b"".join(self.shown).decode(errors="replace")

    def wait_for_cpu_time(self, seconds: float) -> bool:
        """Wait until the run and its workers have used so much more CPU time; return whether it has ended."""
        start = self.measure_cpu_time()
        while not self.wait_until_ended(0.1):
            if self.measure_cpu_time() > start + seconds:
                return False
        return True

    def measure_cpu_time(self) -> float:
        """Return the seconds of CPU time that the run and its workers have used; 0 when it has ended."""
        used = 0.0
        with contextlib.suppress(psutil.Error):
            this = psutil.Process(self.pid)
            used += sum(this.cpu_times()[:4])  # with those of its children that have ended
            used += sum(sum(worker.cpu_times()[:2]) for worker in this.children())
        return used

    def wait_until_ended(self, seconds: float) -> bool:
        """Wait for the run's end; return whether it has ended."""
        if self.code is None and self.answers.poll(seconds):
            self.code = self.answers.recv()
        return self.code is not None

    def end(self) -> int:
        """Wait for the run's end; return its exit code."""
        assert self.wait_until_ended(chaos.PATIENCE_S), self.text
        assert self.code is not None
        return self.code

    def find_processes(self) -> list[psutil.Process]:
        """Return the run and everything it has started: its session, without the shell."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.shell.pid != process.pid:
                    found.append(process)
            except ProcessLookupError:
                continue
        return [process for process in found if is_running(process)]

    def find_workers(self) -> list[psutil.Process]:
        """Return the run's workers."""
        return [
            process
            for process in self.find_processes()
            if process.pid != self.pid and not is_resource_tracker(process)
        ]

    def read_terminal(self) -> None:
        """Keep what is written until the terminal is closed, as its window does."""
        with contextlib.suppress(OSError):  # nobody writes to it any more
            while not self.is_closed.is_set():
                if select.select([self.terminal], [], [], 0.02)[0]:
                    self.shown.append(os.read(self.terminal, 65536))
        os.close(self.terminal)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_resource_tracker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return True  # it has ended


@contextmanager
def start_in_terminal(
    suite: Path, out: Path, workers: str = "spawn", *, disowned: bool = False
) -> Iterator[TerminalRun]:
    """Start a run in a terminal of its own; end all that is left of it afterwards.

    Args:
        suite: its suite file.
        out: its folder.
        workers: how they start: `spawn`, as they do, or `fork`, which takes no time.
        disowned: whether the shell keeps the signal from it that the terminal is closed.
    """
    terminal, run_end = os.openpty()
    answers, answers_end = FORKS.Pipe()
    arguments = ["run", "--suite", str(suite), "--out", str(out), "--cache", str(suite.parent / "cache")]
    arguments += ["--device", "cpu", "--no-track", "--executor", "processes", "--jobs", "2"]
    shell = FORKS.Process(
        target=_open_shell, args=(os.ttyname(run_end), answers_end, arguments, out, workers, disowned)
    )
    shell.start()
    assert answers.poll(chaos.PATIENCE_S)
    run = TerminalRun(shell, answers.recv(), terminal, answers)
    os.close(run_end)  # the shell has opened the terminal itself
    window = threading.Thread(target=run.read_terminal, daemon=True)
    window.start()
    try:
        yield run
    finally:
        for process in run.find_processes():
            process.kill()
        shell.kill()
        shell.join()
        run.is_closed.set()
        window.join()


def _open_shell(
    terminal: str, answers: Any, arguments: list[str], out: Path, workers: str, disowned: bool
) -> None:
    """Do what a shell does: lead a session, start the run as the foreground job, wait for it."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)  # becomes the terminal of the session
    for stream in (0, 1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ready, go = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go)
        os.read(ready, 1)
        for number in (signal.SIGTTOU, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        start = multiprocessing.get_context(workers)
        multiprocessing.get_context = lambda _: start  # type: ignore[assignment]
        chaos.run_command(arguments, out, Harm())
    os.setpgid(pid, pid)
    os.tcsetpgrp(0, pid)
    if not disowned:
        signal.signal(signal.SIGHUP, lambda *_: os.killpg(pid, signal.SIGHUP))
    answers.send(pid)
    os.close(go)
    _, status = os.waitpid(pid, 0)
    answers.send(os.waitstatus_to_exitcode(status))
    signal.pause()


def send(name: str, run: TerminalRun, to: str) -> str:
    """Send a signal to the run or to one of its workers; return what happened to it."""
    if to == "worker":
        targets = [worker.pid for worker in run.find_workers()][:1]
        if not targets:
            return "no worker"
    elif name == "SIGINT":  # the key: the terminal sends the signal to all processes of the run
        os.write(run.terminal, b"\x03")
        return "sent"
    elif name.startswith("close"):
        run.is_closed.set()
        return "sent"
    else:
        targets = [run.pid]
    try:
        os.kill(targets[0], signal.Signals[name])
        if name == "SIGSTOP":
            run.wait_until_ended(random.Random(run.pid).uniform(0.05, 0.5))
            os.kill(targets[0], signal.SIGCONT)
    except ProcessLookupError:
        return "had ended"
    return "sent"


def assert_nothing_outlives(run: TerminalRun) -> float:
    """Check that no process of an ended run is left after `OUTLIVE_S`; return how long the last one took."""
    start = time.monotonic()
    while left := run.find_processes():
        if time.monotonic() > start + OUTLIVE_S:
            pytest.fail(f"{[(one.pid, one.status(), one.cmdline()) for one in left]} are left; {run.text}")
        time.sleep(0.1)
    return time.monotonic() - start


def find_done(out: Path) -> dict[Path, Stamp]:
    """Return what is finished, without the records of failed cells, which are tried again."""
    failed = {record.key for record in tiny.records(out).values() if record.status == "failed"}
    return {path: stamp for path, stamp in finished(out).items() if path.name not in failed}


FATAL = {
    ("SIGINT", "run"): {0, 130},
    ("SIGTERM", "run"): {0, -signal.SIGTERM},
    ("SIGHUP", "run"): {0, -signal.SIGHUP},
    ("close", "run"): {0, -signal.SIGHUP},
    ("close disowned", "run"): {0, 128 + signal.SIGHUP},
    ("SIGKILL", "run"): {0, -signal.SIGKILL},
}
"""Signals that end a run, and the exit codes after them: it may be done by then. Of the others, a run gets
many. One whose workers end for the same item twice has a failed cell, and exit code 1."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run nothing happened to; for reading only."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    assert tiny.run(tiny.plan(matrix=MATRIX), out).counts == (4, 0, 0)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "to"), SENT)
def test_a_signal_at_any_moment_costs_no_finished_work(
    tmp_path: Path, unbroken: Path, name: str, to: str
) -> None:
    rng = random.Random(f"{name} {to}")
    suite = write_suite(tmp_path / "tiny.toml", **MATRIX)
    counted: Counter[str] = Counter()
    slowest = 0.0
    while counted["sent"] < TRIES:
        counted["folders"] += 1
        out = tmp_path / str(counted["folders"])
        kept: dict[Path, Stamp] = {}
        code = -1
        while code:
            workers = rng.choice(("spawn", "fork", "fork", "fork"))
            with start_in_terminal(suite, out, workers, disowned=name.endswith("disowned")) as run:
                share = 1.0 if (name, to) in FATAL else 0.3
                while not run.wait_for_cpu_time(rng.uniform(0, share * CPU_S[workers])):
                    counted[send(name, run, to)] += 1
                    if (name, to) in FATAL:
                        break
                code = run.end()
                assert code in FATAL.get((name, to), {0, 1} if to == "worker" else {0}), run.text
                assert "Traceback" not in run.text, run.text
                slowest = max(slowest, assert_nothing_outlives(run))
            counted[f"ended with {code}"] += 1
            there = find_done(out)
            counted["lost"] += len(kept.keys() - there.keys())
            counted["made twice"] += sum(there[path] != kept[path] for path in kept.keys() & there.keys())
            kept = there
        assert_same(out, unbroken)
        print(name, "to", to, dict(counted), flush=True)
    print(name, "to", to, dict(counted), f"the last process ended {slowest:.2f} s after its run")
    assert (counted["lost"], counted["made twice"]) == (0, 0)
