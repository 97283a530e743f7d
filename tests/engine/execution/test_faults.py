"""Harm done for real: whatever happens to a run, nothing finished is lost, nothing is done twice or half.

`nox -s chaos` does the same with many more kills; `-s` shows what it counted.
"""

import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event as Signal
from pathlib import Path

import psutil
import pytest

from bench.engine.execution.events import (
    Event,
    ItemFinished,
    ItemProgress,
    Notice,
    RunFinished,
    RunStarted,
)
from bench.engine.execution.locks import ItemLocks
from bench.engine.execution.runner import run_plan
from bench.engine.executors.inline import Inline
from bench.engine.executors.processes import Processes
from bench.engine.planning.present_data import PresentData
from bench.engine.planning.remaining_work import RerunPolicy, find_remaining_work
from bench.engine.stages.checkpoint import FileCheckpoint
from bench.engine.storage.store import POISONS, RECORDS, SURROGATES, Store
from bench.errors import BenchError
from bench.run_summary import read_left_out, write_run_summary
from tests.engine import tiny
from tests.engine.execution import chaos
from tests.engine.execution.chaos import KILLS, Harm, Run, assert_same, finished, start, write_suite

MATRIX = {"attack": ["clean", "tap"], "defense": ["none", "grayscale"]}
CELLS = 4
THINGS = 1 + 2 + CELLS
"""Surrogates, poisons and cells of the suite."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run nothing happened to; for reading only."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    assert tiny.run(tiny.plan(matrix=MATRIX), out).counts == (CELLS, 0, 0)
    return out


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path / "tiny.toml", **MATRIX)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def one_sentence(run: Run) -> str:
    """Return the error a run ended with; nothing else may look like one."""
    assert "Traceback" not in run.text, run.text
    (line,) = [line for line in run.text.splitlines() if line.startswith("error: ")]
    return line


def workers(run: Run) -> list[psutil.Process]:
    return psutil.Process(run.process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=chaos.PATIENCE_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def run_listening(
    out: Path,
    listener: Callable[[Event], None],
    executor: Inline | Processes = Inline(),  # noqa: B008 - it is frozen
    rerun: RerunPolicy = "failed",
) -> tiny.Ran:
    """Run `MATRIX` in this process with a listener of the test."""
    ran = tiny.Ran()
    with executor:
        plan, listeners = tiny.plan(matrix=MATRIX), [ran.events.append, listener]
        ran.finished = run_plan(plan, tiny.run_context(out), executor, listeners, rerun)
    return ran


# -- kills ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_runs_lose_nothing_and_do_nothing_twice(tmp_path: Path, unbroken: Path, suite: Path) -> None:
    rng = random.Random(7)
    counted: Counter[str] = Counter()
    while counted["kills"] < KILLS:
        counted["stores"] += 1
        out, ledger = tmp_path / str(counted["stores"]) / "out", tmp_path / f"ledger{counted['stores']}"
        out.parent.mkdir()
        kept: dict[Path, object] = {}
        kills = 0
        while True:
            # Half of the time between two changes of files, half of the time wherever it is just then.
            at = rng.randint(1, 60) if rng.random() < 0.5 else 0
            run = start(suite, out, harm=Harm(kill_at=at), ledger=ledger)
            if not at:
                run.process.join(rng.uniform(0, 2.5))
                run.process.kill()
            code = run.end()
            assert code in (0, -signal.SIGKILL), run.text
            there = finished(out)
            counted["lost"] += len(kept.keys() - there.keys())
            counted["made twice"] += sum(there[path] != kept[path] for path in kept.keys() & there.keys())
            kept = dict(there)
            if code == 0:
                break
            kills += 1
        assert_same(out, unbroken)
        begun = ledger.read_text().count("begun")
        assert begun <= THINGS + kills  # what was in hand is begun again, nothing else
        counted["begun again"] += begun - THINGS
        counted["kills"] += kills
    print(dict(counted))
    assert (counted["lost"], counted["made twice"]) == (0, 0)


@pytest.mark.slow
def test_killed_workers_cost_a_repetition(tmp_path: Path, unbroken: Path) -> None:
    rng = random.Random(8)
    kills = 0
    while kills < KILLS // 12:
        out = tmp_path / f"out{kills}"
        executor = Processes(2)
        victims: set[str] = set()
        most = KILLS // 12 - kills

        def kill(
            event: Event, executor: Processes = executor, victims: set[str] = victims, most: int = most
        ) -> None:
            if not isinstance(event, ItemProgress) or event.key in victims or len(victims) == most:
                return
            if rng.random() < 0.4:
                victims.add(event.key)  # each item's worker once: killed twice, it would be the item's fault
                (worker,) = [one for one in executor._busy if one._item.key == event.key]
                os.kill(worker.process.pid or 0, signal.SIGKILL)
                worker.process.join()  # or, done by then, it might still be given the next item

        ran = run_listening(out, kill, executor)
        kills += len(victims)
        assert ran.counts == (CELLS, 0, 0)
        assert_same(out, unbroken)
    print({"kills of workers": kills})


# -- several runs on one folder -----------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_on_one_folder_share_the_work(tmp_path: Path, out: Path, unbroken: Path, suite: Path) -> None:
    ledger = tmp_path / "ledger"
    runs = [start(suite, out, ledger=ledger) for _ in range(3)]
    assert [run.end() for run in runs] == [0, 0, 0], [run.text for run in runs]
    notes = Counter(ledger.read_text().splitlines())
    assert set(notes.values()) == {1}
    assert len(notes) == 2 * THINGS
    assert sum(int(run.text.split("\ncells: ")[-1].split()[0]) for run in runs) == CELLS
    assert_same(out, unbroken)
    boards = [run.text.split("# Leaderboard")[1].split("## Noise")[0] for run in runs]
    assert len(set(boards)) == 1


@pytest.mark.slow
def test_what_a_killed_run_had_in_hand_is_taken_over(
    tmp_path: Path, out: Path, unbroken: Path, suite: Path
) -> None:
    ledger = tmp_path / "ledger"
    doomed = start(suite, out, harm=Harm(kill_at=25), ledger=ledger)
    others = [start(suite, out, ledger=ledger) for _ in range(2)]
    assert doomed.end() == -signal.SIGKILL
    assert [run.end() for run in others] == [0, 0]
    begun = [line for line in ledger.read_text().splitlines() if line.startswith("begun")]
    assert len(begun) <= THINGS + 1
    assert len(set(begun)) == THINGS
    assert_same(out, unbroken)


def hold(locks: Path, keys: list[str], ready: Signal, release: Signal) -> None:
    with ItemLocks(locks, lambda: None) as item_locks:
        for key in keys:
            assert item_locks.acquire(key)
        ready.set()
        release.wait(chaos.PATIENCE_S)


@pytest.mark.slow
def test_what_another_run_has_in_hand_is_waited_for(out: Path, unbroken: Path) -> None:
    plan = tiny.plan(matrix=MATRIX)
    Store(out).prepare()
    held = [plan.poisons[0].key, plan.cells[1].key]
    ready, release = chaos.FORKS.Event(), chaos.FORKS.Event()
    other = chaos.FORKS.Process(target=hold, args=(Store(out).locks, held, ready, release))
    other.start()
    try:
        assert ready.wait(chaos.PATIENCE_S)
        ran = run_listening(out, lambda event: release.set() if isinstance(event, Notice) else None)
    finally:
        release.set()
        other.join()
    assert ran.notices[:1] == ["another run is working on 1 of the poisons; waiting"]
    assert [event.key for event in ran.of("poisons")][-1] == held[0]  # it came last
    assert ran.counts == (CELLS, 0, 0)
    assert_same(out, unbroken)


def take_all(locks: Path, keys: list[str]) -> None:
    with ItemLocks(locks, lambda: None) as item_locks:
        assert all(item_locks.acquire(key) for key in keys)


def test_what_is_saved_is_given_back_at_once(out: Path) -> None:
    """Else another run would wait for it until this one ends."""
    saved: list[str] = []
    codes: list[int | None] = []

    def take(event: Event) -> None:
        if isinstance(event, ItemFinished):
            saved.append(event.key)
            other = chaos.FORKS.Process(target=take_all, args=(Store(out).locks, saved))
            other.start()
            other.join()
            codes.append(other.exitcode)

    run_listening(out, take)
    assert (len(saved), codes) == (THINGS, [0] * THINGS)


@pytest.mark.parametrize("rerun", ["failed", "all"])
def test_what_another_run_makes_meanwhile_is_not_made_again(
    out: Path, unbroken: Path, rerun: RerunPolicy
) -> None:
    """The other run is played: it puts everything there when this one has chosen what to do."""
    plan = tiny.plan(matrix=MATRIX)
    if rerun == "all":
        shutil.copytree(unbroken, out)

    def play(event: Event) -> None:
        if isinstance(event, RunStarted):
            for kind in (RECORDS, POISONS, SURROGATES):
                shutil.rmtree(out / kind)
                shutil.copytree(unbroken / kind, out / kind, copy_function=shutil.copyfile)

    ran = run_listening(out, play, rerun=rerun)
    assert not [event for event in ran.events if isinstance(event, ItemProgress)]
    told = {event.key: event.record for event in ran.events if isinstance(event, ItemFinished)}
    assert told.keys() == {item.key for item in (*plan.surrogates, *plan.poisons, *plan.cells)}
    assert all(told[cell.key] is not None for cell in plan.cells)
    assert ran.counts == (0, CELLS, 0)


def test_leftovers_are_swept_only_where_no_other_run_is(out: Path) -> None:
    Store(out).prepare()
    left = out / POISONS / f".{'0' * 16}.1"
    left.mkdir()
    ready, release = chaos.FORKS.Event(), chaos.FORKS.Event()
    other = chaos.FORKS.Process(target=hold, args=(Store(out).locks, [], ready, release))
    other.start()
    try:
        assert ready.wait(chaos.PATIENCE_S)
        with ItemLocks(Store(out).locks, Store(out).remove_leftovers):
            assert left.exists()
    finally:
        release.set()
        other.join()
    with ItemLocks(Store(out).locks, Store(out).remove_leftovers):
        assert not left.exists()


def test_a_folder_without_locks_is_refused(out: Path) -> None:
    Store(out).prepare()
    Store(out).locks.mkdir()  # as good as any other reason
    with pytest.raises(
        BenchError, match=r"cannot lock .*locks: it is a folder, not a file; the folder must be"
    ):
        tiny.run(tiny.plan(), out)


# -- interruption -------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_begins_nothing_more(out: Path) -> None:
    ran = tiny.Ran()
    with Inline() as executor:
        ran.finished = run_plan(
            tiny.plan(matrix=MATRIX),
            tiny.run_context(out),
            executor,
            [ran.events.append],
            stopped=lambda: bool(ran.of("cells")),
        )
    assert ran.counts == (1, 0, 0)
    assert len(tiny.records(out)) == 1
    assert isinstance(ran.events[-1], RunFinished)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_ctrl_c_finishes_what_is_under_way(out: Path, unbroken: Path, suite: Path, executor: str) -> None:
    run = start(suite, out, "--executor", executor, "--jobs", "2")
    run.wait_for("surrogates 1/1")
    helpers = workers(run)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    assert run.end() == 130, run.text
    assert "finishing the items in progress" in run.text
    assert "cells are left; the same command continues with them" in run.text
    assert "Traceback" not in run.text
    assert {record.status for record in tiny.records(out).values()} <= {"done"}
    assert len(finished(out)) < THINGS
    assert_gone(helpers)
    again = start(suite, out)
    assert again.end() == 0
    assert "0 failed" in again.text
    assert_same(out, unbroken)


@pytest.mark.slow
def test_ctrl_c_once_more_stops_at_once(tmp_path: Path, out: Path) -> None:
    suite = write_suite(tmp_path / "tiny.toml", attack=["clean", "hanging"])
    run = start(suite, out, "--executor", "processes", "--jobs", "1")
    run.wait_for("poisons 1/2")
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_for("press Ctrl-C again")
    helpers = workers(run)
    assert helpers
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() == 130
    assert "stopped at once; the same command continues" in run.text
    assert "Traceback" not in run.text
    assert_gone(helpers)


# -- time and room ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_hangs_fails_alone(tmp_path: Path, out: Path) -> None:
    suite = write_suite(tmp_path / "tiny.toml", attack=["clean", "hanging", "random"])
    run = start(suite, out, "--executor", "processes", "--jobs", "1", "--time-limit", "20")
    assert run.end() == 1
    assert "Traceback" not in run.text
    assert "FAILED hanging: it took longer than the time limit of 20 s" in run.text
    found = {str(record.cell["attack"]): record for record in tiny.records(out).values()}
    assert {attack: record.status for attack, record in found.items()} == {
        "clean": "done",
        "hanging": "failed",
        "random": "done",
    }
    error = found["hanging"].error
    assert error is not None
    assert error["type"] == "TimeLimit"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system in memory with options, or mount it again with others; return where."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        how = f"remount,{options}" if folder.is_mount() else options
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.05, 0.4, 0.7, 0.95])
def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(
    small_disk: Callable[[str], Path], unbroken: Path, suite: Path, share: float
) -> None:
    """With room for a share of what the run writes, the disk is full amid another kind of file each time."""
    page = 4096
    needed = sum(-(-path.stat().st_size // page) for path in unbroken.rglob("*") if path.is_file())
    folder = small_disk(f"size={max(1, int(share * needed)) * page}")
    out = folder / "out"
    if not share:
        (folder / "filler").write_bytes(b"x" * page)
    run = start(suite, out)
    assert run.end() in (1, 2), run.text
    assert "Traceback" not in run.text, run.text
    assert "No space left on device" in run.text
    if run.end() == 2:
        assert "cannot write" in one_sentence(run)
    finished(out)
    assert {path.name for path in out.rglob(".*") if path.is_file()} <= {".mtlue-run", ".mtlue-page"}
    small_disk("size=64m")
    again = start(suite, out)
    assert again.end() == 0, again.text
    assert_same(out, unbroken)


@pytest.mark.slow
def test_a_file_that_cannot_be_written_in_full_is_no_file(out: Path, unbroken: Path, suite: Path) -> None:
    run = start(suite, out, harm=Harm(file_bytes=100_000))
    assert run.end() in (1, 2)
    assert "Traceback" not in run.text
    assert "File too large" in run.text
    finished(out)
    assert start(suite, out).end() == 0
    assert_same(out, unbroken)


def test_a_folder_that_is_read_only_is_named_before_work_starts(
    small_disk: Callable[[str], Path], suite: Path
) -> None:
    folder = small_disk("size=1m")
    small_disk("ro")
    run = start(suite, folder / "out")
    assert run.end() == 2
    assert one_sentence(run).startswith(f"error: cannot write to the output folder {folder / 'out'}")
    assert "Read-only file system" in run.text
    assert "surrogates" not in run.text


# -- damage -------------------------------------------------------------------------------------------------


def cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


FOREIGN = ["[]", "{}", "3", "null", '"x"', '{"schema": 1}', '{"left_out": 3}', "[" * 100_000]


def put_json(path: Path, rng: random.Random) -> None:
    path.write_text(rng.choice(FOREIGN))


def put_another(path: Path, rng: random.Random) -> None:
    """The file of another thing of the same kind, sound in itself; an empty one where there is none."""
    pattern = f"../*/{path.name}" if path.parent.parent.name in (POISONS, SURROGATES) else "*"
    others = [one for one in sorted(path.parent.glob(pattern)) if one.resolve() != path]
    path.write_bytes(rng.choice(others).read_bytes() if others else b"")


HARMS = [cut, flip, overwrite, put_json, put_another]
FILES = [
    "records/*",
    *(f"{kind}/*/{name}*" for kind in (POISONS, SURROGATES) for name in ("tensors", "about")),
]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", FILES)
def test_damage_of_any_stored_file_is_found(
    out: Path, unbroken: Path, file: str, harm: Callable[[Path, random.Random], None]
) -> None:
    """What is found is made again, as test_runner shows."""
    plan, store, present = tiny.plan(matrix=MATRIX), Store(out), PresentData(tiny.run_context(out))
    shutil.copytree(unbroken, out)
    if not file.startswith(RECORDS):  # or nobody would look at it
        shutil.rmtree(out / RECORDS)
    if file.startswith(SURROGATES):
        (tap,) = [poison for poison in plan.poisons if poison.attack.part.needs_surrogate]
        shutil.rmtree(store.folder(POISONS, tap.key))
    todo = sum(find_remaining_work(plan, store, "failed", present).cached.values())
    for path in sorted(out.glob(file)):
        sound = path.read_bytes()
        harm(path, random.Random(str(path.relative_to(out))))
        chosen = find_remaining_work(plan, store, "failed", present)
        (notice,) = chosen.notices
        assert notice.endswith(("; it is made again", "; the cell is run again"))
        assert str(path.parent if path.parent.parent != out else path) in notice
        assert "\n" not in notice
        assert sum(chosen.cached.values()) < todo
        path.write_bytes(sound)


@pytest.mark.parametrize("harm", HARMS)
def test_damage_of_a_checkpoint_is_found(out: Path, harm: Callable[[Path, random.Random], None]) -> None:
    identity = {"data": "x", "device": "cpu"}
    path = Store(out).checkpoint_path("ab")
    FileCheckpoint(path, identity, every_s=0).save(lambda: {"done": 1})
    assert FileCheckpoint(path, identity).load() == {"done": 1}
    harm(path, random.Random(1))
    assert FileCheckpoint(path, identity).load() is None


@pytest.mark.parametrize("harm", HARMS)
def test_damage_of_the_note_about_the_last_run_costs_nothing(
    out: Path, harm: Callable[[Path, random.Random], None]
) -> None:
    for seed in range(20):
        write_run_summary(out, "tiny", ["one", "two"])
        harm(out / "run.json", random.Random(seed))
        assert "\n" not in "".join(read_left_out(out))


# -- other --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(out: Path, unbroken: Path, suite: Path) -> None:
    run = start(suite, out, harm=Harm(clock=1e8))
    assert run.end() == 0, run.text
    assert_same(out, unbroken)
    assert {record.finished[:2] for record in tiny.records(out).values()} == {"20"}


def test_a_victim_that_diverges_is_a_result(tmp_path: Path) -> None:
    from leaderboard.board import render_board

    matrix = {"attack": ["clean", "random"], "weighting": ["ew", "uw"]}
    plan = tiny.plan(matrix=matrix, recipe={"learning_rate": 1e20})
    assert tiny.run(plan, tmp_path).counts == (4, 0, 0)
    records = tiny.records(tmp_path)
    for record in records.values():
        assert record.status == "done"
        assert record.curve[-1]["train_loss"] is None
        learned = record.cell["weighting"] == "uw"  # these weights diverge as well
        assert all((weight is None) == learned for weight in record.curve[-1]["weights"].values())
        assert ("unanswered" in record.curve[-1]) == learned
    assert "## Ranking" in render_board(list(records.values()), left_out=[])
