"""The store: a file is whole or not there, and what is damaged is named."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.engine.storage.store import POISONS, PURIFIED, RECORDS, SURROGATES, DamagedError, Store
from bench.errors import BenchError
from bench.files import hash_json
from bench.record import Record, write_record
from bench.run_summary import write_run_summary
from tests.records import make_record

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef"
TENSORS = {"change": torch.arange(24, dtype=torch.int8).reshape(2, 3, 4)}
ABOUT = {"noise": {"linf": 8.0, "psnr": None}, "word": "δ"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.prepare()
    return store


MARK = ".mtlue-run"


def files(store: Store) -> set[str]:
    """Return the files of a run's folder without its mark."""
    return {str(path.relative_to(store.out)) for path in store.out.rglob("*") if path.is_file()} - {MARK}


@pytest.mark.parametrize("kind", [POISONS, SURROGATES])
def test_what_was_saved_is_loaded(store: Store, kind: str) -> None:
    assert store.read_about(kind, KEY) is None
    assert store.verify(kind, KEY) is False
    store.save(kind, KEY, TENSORS, ABOUT)
    assert store.verify(kind, KEY) is True
    about = store.read_about(kind, KEY)
    assert about is not None
    assert {name: about[name] for name in ABOUT} == ABOUT
    loaded = store.load(kind, KEY)
    assert loaded.keys() == TENSORS.keys()
    assert torch.equal(loaded["change"], TENSORS["change"])
    assert loaded["change"].dtype == torch.int8
    assert files(store) == {f"{kind}/{KEY}/tensors.safetensors", f"{kind}/{KEY}/about.json"}


def test_tensors_that_are_views_are_saved(store: Store) -> None:
    store.save(POISONS, KEY, {"change": TENSORS["change"].transpose(0, 2)}, {})
    assert torch.equal(store.load(POISONS, KEY)["change"], TENSORS["change"].transpose(0, 2))


def test_no_tensors_are_saved_too(store: Store) -> None:
    store.save(POISONS, KEY, {}, ABOUT)
    assert store.verify(POISONS, KEY)
    assert store.load(POISONS, KEY) == {}


@pytest.mark.parametrize("before", ["sound", "damaged", "empty", "file"])
def test_one_that_is_there_already_is_replaced(store: Store, before: str) -> None:
    folder = store.out / POISONS / KEY
    if before == "file":
        folder.write_text("foreign")
    elif before == "empty":
        folder.mkdir()
    else:
        store.save(POISONS, KEY, {"x": torch.zeros(3)}, {})
    if before == "damaged":
        flip(folder / "tensors.safetensors")
        (folder / "about.json").unlink()
    store.save(POISONS, KEY, TENSORS, ABOUT)
    assert store.verify(POISONS, KEY)
    assert torch.equal(store.load(POISONS, KEY)["change"], TENSORS["change"])
    assert files(store) == {f"{POISONS}/{KEY}/tensors.safetensors", f"{POISONS}/{KEY}/about.json"}


def test_a_replacement_is_never_missing_and_the_note_comes_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    seen: list[list[str]] = []
    replace_file = Path.replace

    def look_and_replace(self: Path, target: Path) -> Path:
        seen.append([*sorted(path.name for path in store.folder(POISONS, KEY).iterdir()), target.name])
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", look_and_replace)
    store.save(POISONS, KEY, TENSORS, ABOUT)
    both = ["about.json", "tensors.safetensors"]
    assert seen == [[*both, "tensors.safetensors"], [*both, "about.json"]]


def test_example_images_are_those_of_the_last_one_saved(store: Store) -> None:
    for examples in (b"first", None, b"second", b"third"):
        store.save(POISONS, KEY, TENSORS, ABOUT, examples)
        names = {"tensors.safetensors", "about.json"} | ({"examples.safetensors"} if examples else set())
        assert {path.name for path in store.folder(POISONS, KEY).iterdir()} == names
        assert store.verify(POISONS, KEY)
    assert (store.folder(POISONS, KEY) / "examples.safetensors").read_bytes() == b"third"


def test_a_stamp_changes_with_every_replacement(store: Store) -> None:
    record = Record(key=KEY, status="done", suite="tiny", cell={}, victim="v", poison="p", settings={})
    stamps: list[object] = [store.stamp(POISONS, KEY), store.stamp(RECORDS, KEY)]
    assert stamps == [None, None]
    for _ in range(3):
        store.save(POISONS, KEY, TENSORS, ABOUT)
        store.write_record(record)
        stamps += [store.stamp(POISONS, KEY), store.stamp(RECORDS, KEY)]
    assert len(set(stamps)) == 7


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize("where", ["safetensors.torch.save_file", "bench.engine.storage.store.flush_to_disk"])
def test_a_save_that_fails_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, fail)
    with pytest.raises(BenchError if isinstance(error, OSError) else type(error)) as caught:
        store.save(POISONS, KEY, TENSORS, ABOUT)
    if isinstance(caught.value, BenchError):
        assert str(caught.value) == f"cannot write {store.out / POISONS / KEY}: No space left on device"
    assert list((store.out / POISONS).iterdir()) == []


DYING = """
import os, signal, sys
from pathlib import Path
import safetensors.torch, torch
from bench.engine.storage import store
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
whole = safetensors.torch.save_file
def half(tensors, path):
    whole(tensors, path)
    os.truncate(path, path.stat().st_size // 2)
    die()
if sys.argv[2] == "half":
    safetensors.torch.save_file = half
else:
    store.flush_to_disk = die
store.Store(Path(sys.argv[1])).save("poisons", "0123456789abcdef", {"x": torch.ones(9)}, {})
"""


@pytest.mark.parametrize("when", ["half", "whole"])
def test_a_save_that_is_killed_leaves_nothing_under_the_final_name(store: Store, when: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", DYING, str(store.out), when], cwd=ROOT)
    assert child.wait() == -9
    assert [path.name for path in (store.out / POISONS).iterdir()] == [f".{KEY}.{child.pid}"]
    assert store.verify(POISONS, KEY) is False
    store.remove_leftovers()
    assert list((store.out / POISONS).iterdir()) == []


def test_leftovers_are_swept(store: Store) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    (store.checkpoints).mkdir()
    for kind in (POISONS, SURROGATES, PURIFIED):
        folder = store.out / kind / f".{KEY}.123"
        folder.mkdir(parents=True)
        (folder / "tensors.safetensors").write_bytes(b"half")
    for path in (
        store.records / f".{KEY}.json.123.tmp",
        store.checkpoints / f".{KEY}.pt.123.tmp",
    ):
        path.write_text("half")
    others = [
        # What is written to the folder itself may be by a run that only begins.
        store.out / ".run.json.123.tmp",
        *(store.out / POISONS / name for name in (".keep", f".{KEY}.old", f".{KEY}.124/notes")),
        *(store.records / name for name in (".notes.1", ".mine.json.123.tmp", f".{KEY}.json.123.tmp.bak")),
        *(store.checkpoints / name for name in (".mine.2024.tmp", f".{KEY}.pt.124.tmp/notes")),
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    store.remove_leftovers()
    kept = {f"{POISONS}/{KEY}/tensors.safetensors", f"{POISONS}/{KEY}/about.json"}
    assert files(store) == kept | {str(path.relative_to(store.out)) for path in others}
    assert not list(store.out.glob(f"*/.{KEY}.123"))


def test_preparing_leaves_no_file_but_the_mark(store: Store) -> None:
    assert (files(store), (store.out / MARK).read_bytes()) == (set(), b"")
    store.prepare()
    assert files(store) == set()


@pytest.mark.parametrize("below", ["file", "file/out", "file/deep/out"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BenchError, match="cannot write to the output folder") as caught:
        Store(tmp_path / below).prepare()
    assert str(tmp_path / below) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


FOREIGN = {
    "run.json": '{"suite": "tiny", "left_out": [], "mine": 1}',
    "records/0123456789abcdef.json": '{"schema": 2}',
    "status/box-1.json": "{}",
    "leaderboard.md": "mine",
    "poisons/notes": "mine",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_somebody_else_is_refused_and_not_touched(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(FOREIGN[name])
    with pytest.raises(BenchError, match=f"^{tmp_path} has files of something else than a run"):
        store.prepare()
    assert files(store) == {name}
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "hidden", "marked", "link"])
def test_a_folder_that_a_run_may_use(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    match kind:
        case "empty" | "hidden" | "marked":
            out.mkdir()
        case "link":
            (tmp_path / "elsewhere").mkdir()
            out.symlink_to("elsewhere")
    if kind == "hidden":
        (out / ".run.json.123.tmp").write_text("of a run that was killed when it began")
    if kind == "marked":
        Store(out).prepare()
        (out / "notes").write_text("mine")
    Store(out).prepare()
    assert (out / MARK).is_file()


@pytest.mark.parametrize("kind", ["summary", "record"])
def test_the_folder_of_an_earlier_version_is_a_run(tmp_path: Path, kind: str) -> None:
    """It has no mark, but a summary, or a record if the summary is damaged."""
    if kind == "summary":
        write_run_summary(tmp_path, "tiny", ["one sentence"])
    else:
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "0.json").write_text("damaged")
        (tmp_path / "run.json").write_text("damaged")
        write_record(tmp_path / "records", make_record({"a": 0.5}))
    (tmp_path / "leaderboard.md").write_text("old")
    Store(tmp_path).prepare()
    assert (tmp_path / MARK).is_file()


def test_a_poison_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "poisons").touch()
    with pytest.raises(BenchError, match=f"cannot write .*{KEY}"):
        Store(tmp_path).save(POISONS, KEY, TENSORS, ABOUT)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace(text: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        path.write_text(text)

    return harm


@pytest.mark.parametrize("harm", [cut, flip, empty, Path.unlink])
def test_damaged_tensors_are_named(store: Store, harm: Callable[[Path], None]) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    path = store.out / POISONS / KEY / "tensors.safetensors"
    harm(path)
    with pytest.raises(DamagedError) as caught:
        store.verify(POISONS, KEY)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("harm", [cut, empty, Path.unlink])
def test_damaged_tensors_are_not_loaded(store: Store, harm: Callable[[Path], None]) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    path = store.out / POISONS / KEY / "tensors.safetensors"
    harm(path)
    with pytest.raises(DamagedError) as caught:
        store.load(POISONS, KEY)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        flip,
        empty,
        Path.unlink,
        replace("[]"),
        replace("3"),
        replace("{}"),
        replace('{"schema": 1, "checksum": "", "about": {"x": NaN}}'),
        replace(json.dumps({"schema": 2, "checksum": hash_json({}), "about": {}})),
    ],
)
def test_a_damaged_note_is_named(store: Store, harm: Callable[[Path], None]) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    path = store.out / POISONS / KEY / "about.json"
    harm(path)
    for look in (store.read_about, store.verify):
        with pytest.raises(DamagedError) as caught:
            look(POISONS, KEY)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_in_anothers_place_is_damaged(store: Store) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    store.folder(POISONS, KEY).rename(store.folder(POISONS, "ab"))
    with pytest.raises(DamagedError, match=f"belongs to another key, {KEY}"):
        store.verify(POISONS, "ab")


def test_an_altered_note_is_damaged(store: Store) -> None:
    store.save(POISONS, KEY, TENSORS, ABOUT)
    path = store.out / POISONS / KEY / "about.json"
    path.write_text(path.read_text().replace("8.0", "4.0"))
    with pytest.raises(DamagedError, match="checksum"):
        store.read_about(POISONS, KEY)


def test_records_are_found_by_their_key(store: Store) -> None:
    record = Record(key=KEY, status="done", suite="tiny", cell={}, victim="v", poison="p", settings={})
    assert store.read_record(KEY) is None
    store.write_record(record)
    assert store.read_record(KEY) == record
    assert files(store) == {f"records/{KEY}.json"}


@pytest.mark.parametrize("key", ["../x", "a/b", "/etc/x", "..", "", "xyz", "ab\n", "AB"])
def test_no_key_leads_out_of_the_folder(store: Store, key: str) -> None:
    record = Record(key=key, status="done", suite="tiny", cell={}, victim="v", poison="p", settings={})
    for attempt in (
        lambda: store.save(POISONS, key, TENSORS, ABOUT),
        lambda: store.load(POISONS, key),
        lambda: store.read_about(SURROGATES, key),
        lambda: store.read_record(key),
        lambda: store.write_record(record),
        lambda: store.checkpoint_path(key),
    ):
        with pytest.raises(BenchError, match="is not a key") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert files(store) == set()
    assert list(store.out.parent.iterdir()) == [store.out]
