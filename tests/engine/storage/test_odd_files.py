"""A folder, a pipe or a device where a file should be: nothing waits for it, and a message says so."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.datasets.cache import cached_arrays
from bench.datasets.data_root import name_unreadable_file
from bench.datasets.image_files import DecodeSettings, UnreadableImageError, decode_image
from bench.engine.execution.locks import ItemLocks
from bench.engine.monitoring.status import read_statuses
from bench.engine.planning.remaining_work import RerunPolicy
from bench.engine.planning.suite_file import read_suite
from bench.engine.stages.checkpoint import FileCheckpoint
from bench.engine.storage.item_logs import log_item, log_path, read_tail
from bench.engine.storage.store import POISONS, RECORDS, DamagedError, Store
from bench.errors import BenchError
from bench.files import NotAFileError, hash_file, require_file
from bench.record import read_record
from bench.run_summary import read_left_out
from bench.values import ignore_progress
from leaderboard.board_cache import hash_board_inputs, read_cached_output, write_cached_output
from leaderboard.reference import read_reference
from tests.engine import tiny

pytestmark = pytest.mark.timeout(60)  # a reader that waits would wait forever

KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def odd(tmp_path: Path, kind: str) -> Path:
    KINDS[kind](tmp_path / "odd")
    return tmp_path / "odd"


def place(path: Path, kind: str) -> Path:
    """Put something odd where a file is or could be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    return path


def test_only_a_regular_file_is_one(odd: Path, kind: str, tmp_path: Path) -> None:
    with pytest.raises(NotAFileError, match=f"^it is a {kind}, not a file$"):
        require_file(odd)
    with pytest.raises(FileNotFoundError):
        require_file(tmp_path / "absent")
    file = tmp_path / "file"
    file.write_text("")
    assert require_file(file) == file
    (tmp_path / "link").symlink_to(file)
    assert require_file(tmp_path / "link") == tmp_path / "link"


READERS: dict[str, Callable[[Path], object]] = {
    "record": read_record,
    "reference": read_reference,
    "suite": lambda path: read_suite(str(path)),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_say_what_is_there(odd: Path, kind: str, reader: str) -> None:
    with pytest.raises(BenchError, match=rf"^cannot read .*odd: it is a {kind}, not a file$"):
        READERS[reader](odd)


def test_nothing_else_waits_for_an_odd_file(odd: Path, kind: str, tmp_path: Path) -> None:
    with pytest.raises(NotAFileError):
        hash_file(odd)
    assert read_tail(odd, 3) == []
    assert FileCheckpoint(odd, {}).load() is None
    place(tmp_path / "run.json", kind)
    assert read_left_out(tmp_path) == []
    place(tmp_path / "status" / "host-1.json", kind)
    assert read_statuses(tmp_path) == []
    place(log_path(tmp_path, "ab"), kind)
    with log_item(tmp_path, "ab", "em", ignore_progress) as progress:
        progress("step", 1, 1)
    place(tmp_path / "locks", kind)
    match = rf"^cannot lock .*locks: it is a {kind}, not a file"
    with pytest.raises(BenchError, match=match), ItemLocks(tmp_path / "locks", lambda: None):
        pass


BOARD = {"leaderboard.md": b"board"}


@pytest.mark.parametrize("file", ["leaderboard.md", "leaderboard.seal", "run.json"])
def test_a_board_beside_an_odd_file_is_drawn_again(tmp_path: Path, kind: str, file: str) -> None:
    inputs = hash_board_inputs(tmp_path)
    write_cached_output(tmp_path, inputs, "board", BOARD)
    assert read_cached_output(tmp_path, inputs, "board") == BOARD
    place(tmp_path / file, kind)
    place(tmp_path / "records" / "ab.json", kind)
    if file != "run.json":
        assert read_cached_output(tmp_path, hash_board_inputs(tmp_path), "board") is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; for reading only."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert tiny.run(tiny.plan(), out).counts == (2, 0, 0)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def test_a_record_that_is_none_costs_its_cell_alone(out: Path, kind: str) -> None:
    """A pipe is replaced; nothing that may be in a folder is."""
    cell = tiny.plan().cells[0]
    path = place(out / RECORDS / f"{cell.key}.json", kind)
    ran = tiny.run(tiny.plan(), out)
    assert ran.notices == [f"cannot read {path}: it is a {kind}, not a file; the cell is run again"]
    if kind == "folder":
        assert ran.counts == (0, 1, 1)
        (finished,) = ran.of("cells")
        assert finished.error == f"cannot write {path}: a folder has this name; move it away"
        assert finished.record is not None
        assert finished.record.status == "failed"
        assert path.is_dir()
    else:
        assert ran.counts == (1, 1, 0)


@pytest.mark.parametrize("name", ["about.json", "tensors.safetensors"])
def test_a_poison_whose_file_is_none_fails_alone(out: Path, kind: str, name: str) -> None:
    cell, store = tiny.plan().cells[1], Store(out)
    for path in (out / RECORDS).iterdir():
        path.unlink()
    place(store.folder(POISONS, cell.poison.key) / name, kind)
    with pytest.raises(DamagedError, match=f"{name} is damaged: it is a {kind}, not a file"):
        store.verify(POISONS, cell.poison.key)
    if name.startswith("tensors"):
        with pytest.raises(DamagedError, match=f"{name} is damaged: it is a {kind}, not a file"):
            store.load(POISONS, cell.poison.key)
    ran = tiny.run(tiny.plan(), out)
    assert ran.counts == ((1, 0, 1) if kind == "folder" else (2, 0, 0))


@pytest.mark.parametrize("rerun", ["failed", "all"])
def test_a_checkpoint_that_is_none_costs_nothing(out: Path, kind: str, rerun: RerunPolicy) -> None:
    plan = tiny.plan()
    place(Store(out).checkpoint_path(plan.poisons[1].key), kind)
    shutil.rmtree(Store(out).folder(POISONS, plan.poisons[1].key))
    for path in (out / RECORDS).iterdir():
        path.unlink()
    assert tiny.run(plan, out, rerun=rerun).counts == (2, 0, 0)


@pytest.mark.parametrize("name", ["index.json", "images.npy"])
def test_a_cached_array_that_is_none_is_made_again(tmp_path: Path, kind: str, name: str) -> None:
    def build(folder: Path) -> dict[str, int]:
        np.save(folder / "images.npy", np.arange(3))
        return {"rows": 3}

    cached_arrays(tmp_path, "digits", {}, build)
    (folder,) = tmp_path.iterdir()
    place(folder / name, kind)
    if kind == "folder":  # it may hold anything
        return
    arrays, index, *_ = cached_arrays(tmp_path, "digits", {}, build)
    assert (arrays["images"].tolist(), index) == ([0, 1, 2], {"rows": 3})


def test_an_image_or_a_table_that_is_none_is_named(odd: Path, kind: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"it is a {kind}, not a file"):
        decode_image(odd, DecodeSettings((8, 8)))
    with (
        pytest.raises(BenchError, match=f"^cannot read .*odd: it is a {kind}, not a file$"),
        name_unreadable_file(odd),
    ):
        odd.read_text()


def test_a_suite_can_come_through_a_pipe_of_the_shell() -> None:
    """As in `bench plan --suite <(generate)`."""
    read_end, write_end = os.pipe()
    os.write(write_end, tiny.TOML.encode())
    os.close(write_end)
    try:
        assert read_suite(f"/dev/fd/{read_end}").name == "tiny"
    finally:
        os.close(read_end)
