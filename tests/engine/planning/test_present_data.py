"""Results belong to the data they were made from: when it changes, they are named and made again."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets.folder import Folder
from bench.engine.execution.events import Notice, RunFinished
from bench.engine.execution.runner import run_plan
from bench.engine.executors.inline import Inline
from bench.engine.planning.expand import Plan, expand_suite
from bench.engine.planning.present_data import PresentData
from bench.engine.planning.remaining_work import RemainingWork, RerunPolicy, find_remaining_work
from bench.engine.stages import loaded_data
from bench.engine.stages.context import RunContext
from bench.engine.storage.store import SURROGATES
from bench.record import Record, write_record
from tests.engine import tiny

LEARNED = "orthogonal-projection(epochs=1)"
TABLES = {
    "matrix": {"dataset": ["folder"], "attack": ["clean", "tap"], "defense": ["none", LEARNED]},
    "params": {"dataset": {"folder": {"size": 8, "crop": 8}}},
}
IMAGES = 24


def make_folder(root: Path, images: int = IMAGES, seed: int = 0) -> None:
    """Write images whose brightness is their label, a quarter of them for the test."""
    folder = root / "images"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = ["image,bright,split"]
    for number in range(images):
        pixels = rng.integers(100, size=(8, 8, 3)) + 120 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
        lines.append(f"{number:02}.png,{number % 2},{'train' if number % 4 < 2 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines))


def edit_labels(root: Path, old: str, new: str) -> None:
    table = root / "images" / "labels.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def replace_image(root: Path, name: str) -> None:
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(root / "images" / name)


def make_anew(root: Path, **how: int) -> None:
    shutil.rmtree(root)
    make_folder(root, **how)


CHANGES: dict[str, Callable[[Path], None]] = {
    "a test label": lambda root: edit_labels(root, "02.png,0", "02.png,1"),
    "a training label": lambda root: edit_labels(root, "00.png,0", "00.png,1"),
    "a test image": lambda root: replace_image(root, "02.png"),
    "a training image": lambda root: replace_image(root, "00.png"),
    "the split of an image": lambda root: edit_labels(root, "02.png,0,test", "02.png,0,train"),
    "the name of a task": lambda root: edit_labels(root, "bright", "light"),
    "more images": lambda root: make_anew(root, images=IMAGES + 8),
    "a missing image": lambda root: (root / "images" / "23.png").unlink(),
    "other images": lambda root: make_anew(root, seed=1),
}


def plan(root: Path) -> Plan:
    return expand_suite(tiny.suite(**TABLES), (), root)


def context(folder: Path) -> RunContext:
    return replace(tiny.run_context(folder / "out"), data_root=folder / "data", cache=folder / "cache")


def run(folder: Path) -> RunFinished:
    with Inline() as executor:
        return run_plan(plan(folder / "data"), context(folder), executor)


def remaining(folder: Path, rerun: RerunPolicy = "failed") -> RemainingWork:
    where = context(folder)
    return find_remaining_work(plan(folder / "data"), where.store, rerun, PresentData(where))


def counts(work: RemainingWork) -> tuple[int, int, int, int]:
    return len(work.surrogates), len(work.poisons), len(work.purified), len(work.cells)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a folder of images; for reading only."""
    folder = tmp_path_factory.mktemp("whole")
    make_folder(folder / "data")
    assert run(folder).done == 4
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The folder and its run again, to be changed; the cache of decoded images is shared."""
    for name in ("data", "out"):
        shutil.copytree(whole / name, tmp_path / name, copy_function=shutil.copy2)
    return tmp_path


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rerun", ["failed", "none"])
def test_results_of_changed_data_are_named_and_made_again(
    copy: Path, change: str, rerun: RerunPolicy
) -> None:
    assert counts(remaining(copy)) == (0, 0, 0, 0)
    CHANGES[change](copy / "data")
    work = remaining(copy, rerun)
    assert counts(work) == (1, 2, 2, 4)
    assert work.notices == (
        f"dataset 'folder': 4 cells, 2 poisons, 1 surrogate, 2 purified sets in {copy / 'out'} belong to "
        f"other data than what is now under {copy / 'data'}; they are made again",
    )


def test_what_is_made_again_is_what_a_new_run_makes(
    copy: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    CHANGES["a test label"](copy / "data")
    assert run(copy).done == 4
    assert counts(remaining(copy)) == (0, 0, 0, 0)
    fresh = tmp_path_factory.mktemp("fresh")
    shutil.copytree(copy / "data", fresh / "data")
    run(fresh)
    assert tiny.results(copy / "out") == tiny.results(fresh / "out")
    assert len({record.data for record in tiny.records(copy / "out").values()}) == 1


def test_files_that_only_look_changed_make_nothing_again(copy: Path) -> None:
    for path in (copy / "data" / "images").iterdir():
        os.utime(path)
    assert remaining(copy).notices == ()


def test_another_data_root_is_other_data_even_if_its_files_look_the_same(copy: Path, tmp_path: Path) -> None:
    """Same names, sizes and times: only the path tells the decoded images apart."""
    twin = tmp_path / "twin"
    shutil.copytree(copy / "data", twin, copy_function=shutil.copy2)
    bitmap = copy / "data" / "images" / "00.png"
    other = twin / "images" / "00.png"
    content = bytearray(bitmap.read_bytes())
    Image.fromarray(np.asarray(Image.open(bitmap))[::-1]).save(other)
    other.write_bytes(other.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(other, ns=(bitmap.stat().st_atime_ns, bitmap.stat().st_mtime_ns))
    remaining(copy)  # decodes the first root's images
    moved = replace(context(copy), data_root=twin)
    work = find_remaining_work(plan(twin), moved.store, "failed", PresentData(moved))
    assert counts(work) == (1, 2, 2, 4)


def test_results_that_do_not_name_their_test_images_are_made_again(copy: Path) -> None:
    """Earlier versions noted the training set, of surrogates nothing."""
    store = context(copy).store
    for record in tiny.records(store.out).values():
        write_record(store.records, replace(record, environment={"data": record.data[:16]}))
    (surrogate,) = plan(copy / "data").surrogates
    about = store.read_about(SURROGATES, surrogate.key)
    assert about is not None
    store.save(SURROGATES, surrogate.key, store.load(SURROGATES, surrogate.key), about | {"data": ""})
    work = remaining(copy)
    assert len(work.cells) == 4
    assert work.notices == (
        f"dataset 'folder': 4 cells in {copy / 'out'} are of an earlier version, which did not note the test "
        "images; they are made again",
    )


def test_images_are_not_read_again_to_compare_results(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remaining(copy)
    monkeypatch.setattr(loaded_data, "hash_split", None)
    assert counts(remaining(copy)) == (0, 0, 0, 0)
    edit_labels(copy / "data", "02.png,0", "02.png,1")
    with pytest.raises(TypeError):
        loaded_data.cached_fingerprint(
            plan(copy / "data").cells[0].poison.dataset.part.load(copy / "data", copy / "cache")
        )


def test_a_dataset_that_cannot_be_read_keeps_its_results(copy: Path) -> None:
    edit_labels(copy / "data", "02.png,0,test", "02.png,0,neither")
    work = remaining(copy)
    assert counts(work) == (0, 0, 0, 0)
    (notice,) = work.notices
    assert notice.startswith("dataset 'folder' cannot be read, so no result is compared with it: ")
    assert "neither" in notice


@pytest.mark.parametrize("error", [SystemExit(0), ArithmeticError()])
def test_a_dataset_that_raises_anything_keeps_its_results(
    error: BaseException, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Folder, "load", fail)
    work = remaining(copy)
    assert counts(work) == (0, 0, 0, 0)
    (notice,) = work.notices
    assert f"so no result is compared with it: {type(error).__name__}" in notice


def test_a_dataset_without_files_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tiny.plan()
    tiny.run(chosen, tmp_path)
    monkeypatch.setattr("bench.datasets.digits.Digits.load", None)
    where = tiny.run_context(tmp_path)
    assert not find_remaining_work(chosen, where.store, "failed", PresentData(where)).cells


def test_a_cell_that_another_run_makes_from_other_data_is_not_taken_over(copy: Path) -> None:
    """It is replaced while this run crafts the poisons, so this run makes it again."""
    (copy / "out" / "records").rename(copy / "theirs")
    theirs: dict[str, Record] = {}
    for path in (copy / "theirs").iterdir():
        theirs[path.stem] = tiny.read_record(path)

    def interfere(event: object) -> None:
        if type(event).__name__ == "RunStarted":
            for record in theirs.values():
                write_record(copy / "out" / "records", replace(record, environment={"data": "b" * 32}))

    with Inline() as executor:
        finished = run_plan(plan(copy / "data"), context(copy), executor, [interfere])
    assert (finished.done, finished.cached) == (4, 0)
    assert {record.data for record in tiny.records(copy / "out").values()} == {
        record.data for record in theirs.values()
    }


def test_what_a_dataset_notes_is_said_once_after_the_start(copy: Path) -> None:
    """It is read before the run, to compare its results, and again by the items."""
    (copy / "data" / "images" / "23.png").unlink()
    events: list[object] = []
    with Inline() as executor:
        run_plan(plan(copy / "data"), context(copy), executor, [events.append])
    assert type(events[0]).__name__ == "RunStarted"
    said = [event.message for event in events if isinstance(event, Notice)]
    assert len([message for message in said if "23.png" in message]) == 1
