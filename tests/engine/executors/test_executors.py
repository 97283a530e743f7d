"""Executors: lazy, in order or as they finish, and a worker that dies takes nothing else with it."""

import gc
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.engine.executors.base import I, Outcome, describe_failure
from bench.engine.executors.inline import Inline
from bench.engine.executors.processes import Processes, assign_gpus
from bench.errors import BenchError
from bench.values import Progress

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60
"""A wait ends when what it is for happens; this only keeps a broken test from going on for ever."""


def silent(*_: object) -> None:
    """Take progress and say nothing of it."""


def in_order(items: Iterable[I]) -> Callable[[], I | None]:
    """Return what gives an executor one item after the other, and then none."""
    source = iter(items)
    return lambda: next(source, None)


def wait_for(condition: Any) -> None:
    for _ in range(PATIENCE_S * 50):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- work, at the top of the module since workers find it by its name ---------------------------------------


def square(item: int, progress: Progress) -> int:
    progress("step", 0, 2)
    if item < 0:
        raise ValueError(f"{item} is negative")
    progress("step", 2, 2)
    return item**2


def warn(item: str, progress: Progress) -> None:
    logging.getLogger("bench.somewhere").warning(item)
    logging.getLogger("bench.somewhere").info("not worth a line")
    logging.getLogger("another.library").warning("not ours")


def threads(item: int, progress: Progress) -> tuple[int, int]:
    import torch

    return torch.get_num_threads(), os.getpid()


def die_or_not(item: tuple[str, str], progress: Progress) -> str:
    """Note start and end; be killed while ``slow`` is under way, or be slow until that happens."""
    what, folder = item

    def note(event: str) -> None:
        with Path(folder, "events").open("a") as events:
            events.write(f"{event} {what}\n")

    note("start")
    if what == "slow":
        wait_for(lambda: (pid := Path(folder, "dying")).exists() and not is_alive(int(pid.read_text())))
    if what == "die":
        wait_for(lambda: "slow" in Path(folder, "events").read_text())
        Path(folder, "dying.tmp").write_text(str(os.getpid()))
        Path(folder, "dying.tmp").rename(Path(folder, "dying"))
        os.kill(os.getpid(), signal.SIGKILL)
    note("end")
    return what


def end(item: tuple[str, str], progress: Progress) -> str:
    """End in a way; ``once`` only the first time."""
    what, folder = item
    seen = Path(folder, what)
    first = not seen.exists()
    with seen.open("a") as file:
        file.write("x")
    if what == "always" or (what == "once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "slow" and first:
        os.kill(os.getpid(), signal.SIGUSR2)  # Slurm's, before it ends a job whose time is over
    while what == "hang":
        time.sleep(1)
    return what


def meet(item: tuple[str, str], progress: Progress) -> str:
    """Return the GPU of this worker, once one with another is there too."""
    folder, _ = item
    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    Path(folder, gpu).touch()
    wait_for(lambda: len(list(Path(folder).iterdir())) == 2)
    return gpu


def interrupt(item: int, progress: Progress) -> int:
    """Be sent what Ctrl-C sends."""
    os.kill(os.getpid(), signal.SIGINT)
    return item


def hang(item: str, progress: Progress) -> str:
    """Take for ever in the way that is asked for, or no time at all."""
    if item == "sleep":
        time.sleep(PATIENCE_S)
    if item == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while item == "spin":
        pass
    return item


def eat(item: int, progress: Progress) -> int:
    """Take so many MiB where there is room for 512 more than there are."""
    import resource

    have = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (have + (512 << 20), resource.RLIM_INFINITY))
    try:
        import torch

        return torch.zeros(item << 20, dtype=torch.uint8).nbytes >> 20
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def die_while_reporting(item: str, progress: Progress) -> str:
    """Be killed amid a word; what is said next to the parent says only half of what it announces."""
    if item == "die":
        pipe = next(found for found in gc.get_objects() if isinstance(found, Connection))
        os.write(pipe.fileno(), struct.pack("!i", 1000) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def sleep(item: str, progress: Progress) -> str:
    """Note the process; ``first`` returns as soon as ``second`` sleeps."""
    folder, name = Path(item).parent, Path(item).name
    (folder / f"{name}.tmp").write_text(str(os.getpid()))
    (folder / f"{name}.tmp").rename(item)
    if name == "first":
        wait_for((folder / "second").exists)
        return item
    time.sleep(PATIENCE_S)
    return item


# -- inline -------------------------------------------------------------------------------------------------


def test_inline_is_lazy_and_in_order() -> None:
    begun = []

    def work(item: int, progress: Progress) -> int:
        begun.append(item)
        return item

    with Inline() as executor:
        outcomes = executor.map(work, in_order([3, 1, 2]), silent)
        assert begun == []
        assert next(outcomes).item == 3
        assert begun == [3]
        assert [outcome.item for outcome in outcomes] == [1, 2]


def test_inline_pulls_one_item_after_the_other() -> None:
    log: list[str] = []

    def items() -> Iterator[int]:
        for item in (1, 2):
            log.append(f"pull {item}")
            yield item

    with Inline() as executor:
        log.extend(f"done {outcome.item}" for outcome in executor.map(square, in_order(items()), silent))
    assert log == ["pull 1", "done 1", "pull 2", "done 2"]


def test_inline_keeps_failures_and_goes_on() -> None:
    told: list[tuple[int, str, int, int]] = []
    with Inline() as executor:
        outcomes = list(executor.map(square, in_order([2, -1, 3]), lambda *step: told.append(step)))
    check_squares(outcomes)
    assert told == [
        (2, "step", 0, 2),
        (2, "step", 2, 2),
        (-1, "step", 0, 2),
        (3, "step", 0, 2),
        (3, "step", 2, 2),
    ]


def check_squares(outcomes: list[Outcome[int, int]]) -> None:
    by_item = {outcome.item: outcome for outcome in outcomes}
    assert len(outcomes) == len(by_item) == 3
    assert (by_item[2].result, by_item[2].failure) == (4, None)
    assert (by_item[3].result, by_item[3].failure) == (9, None)
    failure = by_item[-1].failure
    assert by_item[-1].result is None
    assert failure is not None
    assert (failure["type"], failure["message"]) == ("ValueError", "-1 is negative")
    assert "in square" in failure["traceback"]
    assert all(outcome.seconds >= 0 for outcome in outcomes)


def test_inline_can_be_interrupted() -> None:
    def work(item: int, progress: Progress) -> None:
        raise KeyboardInterrupt

    with Inline() as executor, pytest.raises(KeyboardInterrupt):
        list(executor.map(work, in_order([1]), silent))


@dataclass(frozen=True)
class Ending:
    """Try to end the program, as the code of a part may do, in the given way."""

    way: str

    def __call__(self, item: int, progress: Progress) -> int:
        if item == 2:
            if self.way == "os._exit":
                os._exit(0)
            if self.way == "sys.exit":
                sys.exit(0)
            raise {
                "interrupt": KeyboardInterrupt,
                "generator": GeneratorExit("end"),
                "base": BaseException("x"),
            }[self.way]
        return item


ENDINGS = {
    "sys.exit": ("SystemExit", "it raised SystemExit(0)"),
    "os._exit": ("SystemExit", "it raised SystemExit(0)"),
    "interrupt": ("KeyboardInterrupt", "it raised KeyboardInterrupt()"),
    "generator": ("GeneratorExit", "it raised GeneratorExit(end)"),
    "base": ("BaseException", "it raised BaseException(x)"),
}


def check_ending(outcomes: list[Outcome[int, int]], kind: str, message: str) -> None:
    by_item = {outcome.item: outcome for outcome in outcomes}
    assert [by_item[item].result for item in (1, 2, 3)] == [1, None, 3]
    failure = by_item[2].failure
    assert failure is not None
    assert (failure["type"], failure["message"]) == (kind, message)


@pytest.mark.parametrize("way", ENDINGS)
def test_inline_fails_an_item_that_ends_the_program(way: str) -> None:
    handler = signal.signal(signal.SIGINT, lambda *_: None)  # as `bench run` has one of its own
    try:
        with Inline() as executor:
            check_ending(list(executor.map(Ending(way), in_order([1, 2, 3]), silent)), *ENDINGS[way])
    finally:
        signal.signal(signal.SIGINT, handler)


def test_inline_lets_a_forked_process_end(capfd: pytest.CaptureFixture[str]) -> None:
    def work(item: int, progress: Progress) -> int:
        pid = os.fork()
        if not pid:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    end_process = os._exit
    with Inline() as executor:
        (outcome,) = executor.map(work, in_order([1]), silent)
    assert (outcome.result, os._exit) == (7, end_process)


def test_a_failure_without_a_message_has_its_type() -> None:
    failure = describe_failure(MemoryError())
    assert (failure["type"], failure["message"]) == ("MemoryError", "MemoryError")


class MuteError(Exception):
    """An exception whose text and notes cannot be made."""

    def __str__(self) -> str:
        raise SystemExit(0)

    @property
    def __notes__(self) -> list[str]:
        raise ValueError


def test_a_failure_whose_text_cannot_be_made_has_its_type() -> None:
    failures = []
    for raised in (MuteError(), KeyError(MuteError()), ValueError(os.fsdecode(b"\xff"))):
        try:
            raise raised
        except Exception as error:
            failures.append(describe_failure(error))
    assert [(failure["type"], failure["message"]) for failure in failures] == [
        ("MuteError", "MuteError"),
        ("KeyError", "MuteError()"),
        ("ValueError", r"\udcff"),
    ]
    assert all("test_executors.py" in failure["traceback"] for failure in failures)
    assert json.dumps(failures, ensure_ascii=False).encode()


# -- processes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with Processes(2, threads=3) as executor:
        yield executor


def test_processes_keep_failures_and_go_on(pool: Processes) -> None:
    told: list[tuple[int, str, int, int]] = []
    check_squares(list(pool.map(square, in_order([2, -1, 3]), lambda *step: told.append(step))))
    expected = {
        (2, "step", 0, 2),
        (2, "step", 2, 2),
        (-1, "step", 0, 2),
        (3, "step", 0, 2),
        (3, "step", 2, 2),
    }
    wait_for(lambda: set(told) == expected)
    for item in (2, 3):
        assert [step[2] for step in told if step[0] == item] == [0, 2]


def test_workers_are_kept_and_have_their_threads(pool: Processes) -> None:
    found = [
        outcome.result for again in range(2) for outcome in pool.map(threads, in_order([1, 2, 3]), silent)
    ]
    assert None not in found
    assert {count for count, _ in filter(None, found)} == {3}
    pids = {pid for _, pid in filter(None, found)}
    assert os.getpid() not in pids
    assert len(pids) <= 2


@pytest.mark.parametrize("way", sorted({*ENDINGS} - {"os._exit"}))
def test_processes_fail_an_item_that_ends_the_program(pool: Processes, way: str) -> None:
    check_ending(list(pool.map(Ending(way), in_order([1, 2, 3]), silent)), *ENDINGS[way])


def test_processes_fail_an_item_that_ends_its_process(pool: Processes) -> None:
    outcomes = list(pool.map(Ending("os._exit"), in_order([1, 2, 3]), silent))
    check_ending(outcomes, "WorkerDied", "the worker process died (killed, or out of memory)")


def test_a_worker_that_cannot_start_is_one_sentence() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_open = len(list(Path("/proc/self/fd").iterdir()))
    with Processes(1) as executor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (is_open + 1, limits[1]))
        try:
            with pytest.raises(
                BenchError, match=r"^cannot start a worker: Too many open files; give a small"
            ):
                list(executor.map(square, in_order([1]), silent))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_workers_end_with_their_run_before_they_import_torch() -> None:
    """A worker that is still importing it when its run is killed would outlive the run by seconds."""
    code = "import sys, bench.engine.executors.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_memory_of_gpus_is_shared_out() -> None:
    assert assign_gpus({"0": 80, "1": 80}, 4) == ["0", "0", "1", "1"]
    assert assign_gpus({"0": 80, "1": 30}, 3) == ["0", "0", "1"]  # 40, 40 and 30; the second on 1 had 15
    assert assign_gpus({"2": 10, "5": 80}, 3) == ["5", "5", "5"]
    assert assign_gpus({"GPU-1": 1}, 2) == ["GPU-1", "GPU-1"]


def test_each_worker_sees_its_gpu_alone(tmp_path: Path) -> None:
    with Processes(2, gpus=["3", "5"]) as executor:
        items = [(str(tmp_path), other) for other in ("5", "3")]
        seen = {outcome.result for outcome in executor.map(meet, in_order(items), silent)}
        assert seen == {"3", "5"}
        (dead,) = [worker for worker in executor._idle if worker.gpu == "3"]
        dead.process.kill()
        wait_for(lambda: not dead.process.is_alive())
        for name in seen:
            (tmp_path / name).unlink()
        # The one in its place has its GPU.
        assert {outcome.result for outcome in executor.map(meet, in_order(items), silent)} == {"3", "5"}


def test_no_items_are_no_outcomes(pool: Processes) -> None:
    assert list(pool.map(square, in_order([]), silent)) == []


def test_workers_warnings_reach_this_process(pool: Processes, caplog: pytest.LogCaptureFixture) -> None:
    assert [outcome.failure for outcome in pool.map(warn, in_order(["mind the gap"]), silent)] == [None]
    wait_for(lambda: caplog.messages)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("bench", "mind the gap")]


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_own_item_alone(tmp_path: Path) -> None:
    items = [(what, str(tmp_path)) for what in ("slow", "die", "first after", "second after")]
    with Processes(2) as executor:
        outcomes = list(executor.map(die_or_not, in_order(items), silent))
    assert sorted(outcome.item for outcome in outcomes) == sorted(items)
    for outcome in outcomes:
        if outcome.item[0] == "die":
            assert outcome.failure is not None
            assert outcome.failure["type"] == "WorkerDied"
            assert "killed" in outcome.failure["message"]
        else:
            assert (outcome.result, outcome.failure) == (outcome.item[0], None)
    # It was tried once more, alone, and nothing else was begun twice.
    events = (tmp_path / "events").read_text().splitlines()
    starts = [event for event in events if event.startswith("start")]
    assert Counter(starts) == Counter(f"start {what}" for what, _ in [*items, items[1]])
    again = len(events) - 1 - events[::-1].index("start die")
    before, others = Counter(events[:again]), ("slow", "first after", "second after")
    assert all(before[f"start {what}"] == before[f"end {what}"] for what in others)


def test_a_worker_killed_between_two_items_costs_none(pool: Processes) -> None:
    pids = {outcome.result[1] for outcome in pool.map(threads, in_order([1, 2, 3]), silent) if outcome.result}
    for pid in pids:
        psutil.Process(pid).kill()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    check_squares(list(pool.map(square, in_order([2, -1, 3]), silent)))


@pytest.mark.parametrize("way", ["sleep", "spin", "stop"])
def test_an_item_that_takes_too_long_fails_alone(way: str) -> None:
    with Processes(2, limit_s=0.5) as executor:
        outcomes = list(executor.map(hang, in_order(["a", way, "b", "c"]), silent))
    assert sorted(outcome.item for outcome in outcomes) == sorted(["a", way, "b", "c"])
    for outcome in outcomes:
        if outcome.item == way:
            assert outcome.failure is not None
            assert outcome.failure["type"] == "TimeLimit"
            assert outcome.failure["message"] == "it took longer than the time limit of 0.5 s"
        else:
            assert (outcome.result, outcome.failure) == (outcome.item, None)


def test_the_terminals_interrupt_does_not_reach_workers(pool: Processes) -> None:
    outcomes = list(pool.map(interrupt, in_order([1, 2]), silent))
    assert sorted(outcome.item for outcome in outcomes if outcome.failure is None) == [1, 2]


def test_an_item_without_room_fails_alone(pool: Processes) -> None:
    outcomes = {outcome.item: outcome for outcome in pool.map(eat, in_order([1, 4096, 2]), silent)}
    assert {item: outcome.result for item, outcome in outcomes.items()} == {1: 1, 4096: None, 2: 2}
    failure = outcomes[4096].failure
    assert failure is not None
    assert failure["type"] == "RuntimeError"
    assert "alloc" in failure["message"]


def test_items_are_pulled_when_a_worker_is_free(pool: Processes) -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for item in range(6):
            pulled.append(item)
            yield item

    outcomes = pool.map(square, in_order(items()), silent)
    for finished in range(1, 7):
        assert next(outcomes).failure is None
        assert len(pulled) <= finished + 1
    assert next(outcomes, None) is None
    assert pulled == list(range(6))


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_an_executor_asks_again_after_an_outcome(pool: Processes, kind: str) -> None:
    """With nothing to start it goes on: an item may become ready when another one is done."""
    sources = {1: set[int](), 2: {1}, 3: {1}, 4: {2, 3}}
    started, done = list[int](), set[int]()

    def next_item() -> int | None:
        ready = (item for item, needs in sources.items() if item not in started and needs <= done)
        if (item := next(ready, None)) is not None:
            started.append(item)
        return item

    executor = Inline() if kind == "inline" else pool
    for outcome in executor.map(square, next_item, silent):
        done.add(outcome.item)
    assert (started, done) == ([1, 2, 3, 4], {1, 2, 3, 4})


@pytest.mark.slow
def test_processes_are_lazy_and_end_with_their_block(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("first", "second", "third")]
    with Processes(2) as executor:
        outcomes = executor.map(sleep, in_order(items), silent)
        assert next(outcomes).result == items[0]
        pids = [int(Path(item).read_text()) for item in items[:2]]
        assert is_alive(pids[1])
        assert not Path(items[2]).exists()  # nothing new starts before the first outcome could be saved
    assert not any(is_alive(pid) for pid in pids)
    assert not Path(items[2]).exists()


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def assert_ends_with_parent(
    started: "subprocess.Popen[str]", items: Sequence[str], stopped: Sequence[str] = ()
) -> None:
    """Kill a process once its workers have noted their numbers in these files, and see all of them end.

    Some of the workers are stopped before.
    """
    with started as parent:
        try:
            wait_for(lambda: all(Path(item).exists() for item in items) or parent.poll() is not None)
            assert parent.poll() is None
            for item in stopped:
                os.kill(int(Path(item).read_text()), signal.SIGSTOP)
            children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        finally:
            parent.kill()
    assert {int(Path(item).read_text()) for item in items} <= set(children)
    wait_for(lambda: not any(is_alive(pid) for pid in children))


KILLED = """
import sys
from bench.engine.executors.processes import Processes
from tests.engine.executors.test_executors import in_order, silent, sleep
if __name__ == "__main__":
    with Processes(2) as executor:
        list(executor.map(sleep, in_order(sys.argv[1:]), silent))
"""


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run_even_if_it_is_stopped(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("second", "third")]
    assert_ends_with_parent(python(KILLED, *items), items, stopped=items[:1])


STUCK = """
from bench.engine.executors.processes import Processes
from tests.engine.executors.test_executors import die_while_reporting, in_order, silent
if __name__ == "__main__":
    with Processes(1) as executor:
        for outcome in executor.map(die_while_reporting, in_order(["die", "live"]), silent):
            print(outcome.item, outcome.failure and outcome.failure["type"], flush=True)
"""


@pytest.mark.slow
def test_a_worker_that_dies_while_it_reports_holds_nobody_up() -> None:
    with python(STUCK) as parent:
        try:
            out, errors = parent.communicate(timeout=PATIENCE_S)
        finally:
            parent.kill()
    assert (out.splitlines(), parent.returncode) == (["die WorkerDied", "live None"], 0), errors
