"""UTKFace: labels from names, what is left out, and the split."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.catalog.description import describe_part
from bench.datasets.utkface import UnusableNameError, UTKFace, read_labels
from bench.errors import BenchError
from bench.values import Split

SMALL = UTKFace(size=16)


def file_name(age: int, gender: int, race: int, number: int) -> str:
    return f"{age}_{gender}_{race}_20170116{number:09}.jpg.chip.jpg"


def images_folder(root: Path) -> Path:
    return root / "utkface" / "UTKFace"


def write_image(root: Path, name: str, seed: int) -> None:
    images_folder(root).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images_folder(root) / name, "JPEG")


def write_faces(root: Path, count: int = 20) -> None:
    for number in range(count):
        write_image(root, file_name(number * 5, number % 2, number % 5, number), number)


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def same(one: MultiTaskData, other: MultiTaskData) -> bool:
    return all(
        torch.equal(a.images, b.images) and all(torch.equal(a.targets[t], b.targets[t]) for t in a.targets)
        for a, b in ((one.train, other.train), (one.test, other.test))
    )


@pytest.fixture
def real_root() -> Path:
    root = Path(os.environ.get("MTLUE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not images_folder(root).is_dir():
        pytest.skip(f"no UTKFace images under {root}")
    return root


@pytest.mark.parametrize(
    ("age_class", "first", "last"),
    [
        (0, 0, 2),
        (1, 3, 9),
        (2, 10, 19),
        (3, 20, 29),
        (4, 30, 39),
        (5, 40, 49),
        (6, 50, 59),
        (7, 60, 69),
        (8, 70, 120),
    ],
)
def test_ages_fall_into_nine_classes(age_class: int, first: int, last: int) -> None:
    for age in (first, last):
        assert read_labels(file_name(age, 1, 3, 0)) == {"age": age_class, "race": 3, "gender": 1}


@pytest.mark.parametrize(
    "name", ["24_0_1_20170116220224657 .jpg.chip.jpg", "24_0_1_20170116220224657.pg.chip.jpg"]
)
def test_name_with_four_numbers_is_read_in_spite_of_its_ending(name: str) -> None:
    assert read_labels(name) == {"age": 3, "race": 1, "gender": 0}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("39_1_20170116174525125.jpg.chip.jpg", "malformed name"),
        ("39_1__20170116174525125.jpg.chip.jpg", "malformed name"),
        ("x_1_2_20170116174525125.jpg.chip.jpg", "malformed name"),
        ("-3_1_2_20170116174525125.jpg.chip.jpg", "malformed name"),
        ("٣_1_2_20170116174525125.jpg.chip.jpg", "malformed name"),
        ("39_1_2_.jpg", "malformed name"),
        ("121_1_2_20170116174525125.jpg.chip.jpg", "label out of range"),
        ("39_2_2_20170116174525125.jpg.chip.jpg", "label out of range"),
        ("39_1_5_20170116174525125.jpg.chip.jpg", "label out of range"),
    ],
)
def test_unusable_names_say_why(name: str, reason: str) -> None:
    with pytest.raises(UnusableNameError, match=reason):
        read_labels(name)


@given(st.text() | st.from_regex(r"[0-9]{1,3}_[0-2]_[0-6]_[0-9]+ ?\.jpg", fullmatch=True))
def test_any_name_is_read_or_refused(name: str) -> None:
    try:
        labels = read_labels(name)
    except UnusableNameError:
        return
    assert labels["age"] in range(9)
    assert labels["race"] in range(5)
    assert labels["gender"] in range(2)


def test_labels_go_with_their_images(tmp_path: Path) -> None:
    write_faces(tmp_path)
    data = SMALL.load(tmp_path, tmp_path / "cache")
    assert isinstance(SMALL, Dataset)
    assert [(task.name, task.outputs) for task in data.tasks] == [("age", 9), ("race", 5), ("gender", 1)]
    assert (len(data.train), len(data.test)) == (16, 4)
    expected = {}
    for path in images_folder(tmp_path).iterdir():
        with Image.open(path) as image:
            small = image.resize((16, 16), Image.Resampling.BILINEAR)
        expected[np.array(small).transpose(2, 0, 1).tobytes()] = read_labels(path.name)
    for split in (data.train, data.test):
        assert split.images.dtype == torch.uint8
        for row, image in enumerate(split.images):
            assert {t: int(split.targets[t][row]) for t in split.targets} == expected[image.numpy().tobytes()]
        assert all(target.dtype == torch.int64 for target in split.targets.values())


def test_splits_are_disjoint_slices_of_one_mapping(tmp_path: Path) -> None:
    write_faces(tmp_path)
    data = SMALL.load(tmp_path, tmp_path / "cache")
    assert not rows(data.train) & rows(data.test)
    assert len(rows(data.train) | rows(data.test)) == 20
    assert data.train.images.untyped_storage().data_ptr() == data.test.images.untyped_storage().data_ptr()


def test_cached_load_is_bit_identical_and_opens_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faces(tmp_path)
    first = SMALL.load(tmp_path, tmp_path / "cache")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    assert same(first, SMALL.load(tmp_path, tmp_path / "cache"))


def test_split_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    write_faces(tmp_path / "one")
    for path in sorted(images_folder(tmp_path / "one").iterdir(), reverse=True):
        images_folder(tmp_path / "two").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, images_folder(tmp_path / "two") / path.name)
    one = SMALL.load(tmp_path / "one", tmp_path / "cache1")
    assert same(one, SMALL.load(tmp_path / "two", tmp_path / "cache2"))
    other = UTKFace(size=16, data_seed=1).load(tmp_path / "one", tmp_path / "cache1")
    assert rows(one.test) != rows(other.test)
    assert rows(one.train) | rows(one.test) == rows(other.train) | rows(other.test)


def test_split_is_shuffled(tmp_path: Path) -> None:
    write_faces(tmp_path)
    ages = SMALL.load(tmp_path, tmp_path / "cache").train.targets["age"]
    assert not torch.equal(ages, ages.sort().values)


def test_limit_takes_the_first_of_the_shuffle(tmp_path: Path) -> None:
    write_faces(tmp_path)
    everything = SMALL.load(tmp_path, tmp_path / "cache")
    some = UTKFace(size=16, limit=10).load(tmp_path, tmp_path / "cache")
    assert (len(some.train), len(some.test)) == (8, 2)
    assert torch.equal(torch.cat([some.train.images, some.test.images]), everything.train.images[:10])


def test_files_left_out_are_named_in_one_warning_on_every_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_faces(tmp_path, 15)
    folder = images_folder(tmp_path)
    bad = ["39_1_20170116174525125.jpg.chip.jpg", file_name(39, 1, 7, 90), file_name(39, 0, 0, 91)]
    for seed, name in enumerate(bad):
        write_image(tmp_path, name, 100 + seed)
    whole = (folder / bad[2]).read_bytes()
    (folder / bad[2]).write_bytes(whole[: len(whole) // 2])
    (folder / file_name(40, 0, 0, 92)).write_bytes(b"no image")
    (folder / ".DS_Store").write_bytes(b"")
    messages = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "bench"):
            data = SMALL.load(tmp_path, tmp_path / "cache")
        messages.append(caplog.messages)
        assert [f"utkface: {'; '.join(data.notes)}"] == messages[-1]
    assert len(data.train) + len(data.test) == 15
    assert messages[0] == messages[1]
    (message,) = messages[0]
    assert message.startswith("utkface: skipped 4 of 19 files: ")
    assert message.endswith(" and 1 more")
    assert f"'{bad[0]}' (malformed name)" in message
    assert f"'{bad[1]}' (label out of range)" in message
    assert f"'{bad[2]}' (unreadable image)" in message


def test_nothing_is_said_where_nothing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_faces(tmp_path)
    with caplog.at_level(logging.WARNING, "bench"):
        data = SMALL.load(tmp_path, tmp_path / "cache")
    assert not caplog.messages
    assert data.notes == ()


def test_copies_are_left_out_before_the_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_faces(tmp_path)
    folder = images_folder(tmp_path)
    for number in range(10):
        original = file_name(number * 5, number % 2, number % 5, number)
        copy = file_name(number * 5, number % 2, number % 5, number + 100)  # a larger name, the same labels
        shutil.copyfile(folder / original, folder / copy)
    shutil.copyfile(folder / file_name(95, 1, 4, 19), folder / file_name(0, 0, 0, 500))  # a smaller name
    with caplog.at_level(logging.WARNING, "bench"):
        data = SMALL.load(tmp_path, tmp_path / "cache")
    assert caplog.messages == ["utkface: left out 11 byte-identical copies, 1 of them with other labels"]
    assert len(data.train) + len(data.test) == 20
    assert not rows(data.train) & rows(data.test)
    ages = torch.cat([data.train.targets["age"], data.test.targets["age"]])
    assert ages.bincount(minlength=9).tolist() == [2, 1, 2, 2, 2, 2, 2, 2, 5]  # 95 years became 0


def test_changed_file_is_decoded_again(tmp_path: Path) -> None:
    write_faces(tmp_path)
    before = SMALL.load(tmp_path, tmp_path / "cache")
    write_image(tmp_path, file_name(0, 0, 0, 0), 999)
    after = SMALL.load(tmp_path, tmp_path / "cache")
    everything = [rows(data.train) | rows(data.test) for data in (before, after)]
    assert len(everything[0] & everything[1]) == 19


def test_truncated_cache_is_named_and_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_faces(tmp_path)
    first = SMALL.load(tmp_path, tmp_path / "cache")
    wanted = first.train.images.clone()
    (path,) = (tmp_path / "cache").glob("utkface-*/images.npy")
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "bench"):
        second = SMALL.load(tmp_path, tmp_path / "cache")
    (message,) = caplog.messages
    assert str(path.parent) in message
    assert torch.equal(second.train.images, wanted)


def test_crop_is_the_papers_share_of_the_size(tmp_path: Path) -> None:
    write_faces(tmp_path, 5)
    for dataset, crop in ((UTKFace(), 128), (UTKFace(size=36), 33), (UTKFace(size=36, crop=30), 30)):
        augmentation = dataset.load(tmp_path, tmp_path / "cache").augmentation
        assert (augmentation.crop, augmentation.flip) == (crop, True)


def test_missing_images_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--data-root with utkface/UTKFace/AGE_GENDER_RACE_DATE"):
        SMALL.load(None, tmp_path / "cache")
    with pytest.raises(BenchError, match=r"there is no .*utkface/UTKFace; pass --data-root"):
        SMALL.load(tmp_path, tmp_path / "cache")
    images_folder(tmp_path).mkdir(parents=True)
    with pytest.raises(BenchError, match=r"UTKFace has no images; UTKFace is expected as"):
        SMALL.load(tmp_path, tmp_path / "cache")
    write_faces(tmp_path, 2)
    with pytest.raises(BenchError, match=r"test_fraction = 0\.2 of 2 images leaves a split empty"):
        SMALL.load(tmp_path, tmp_path / "cache")


def test_only_unusable_names_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path, "face.jpg", 0)
    with pytest.raises(BenchError, match="no readable image"):
        SMALL.load(tmp_path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("params", ["size=4", "limit=1", "test_fraction=1", "data_seed=-1", "crop=2"])
def test_parameters_out_of_range_are_refused(params: str) -> None:
    with pytest.raises(BenchError, match=params.partition("=")[0]):
        build_part("dataset", f"utkface({params})")


def test_crop_beyond_the_size_is_refused() -> None:
    with pytest.raises(BenchError, match="crop = 200 is larger than size = 140"):
        build_part("dataset", "utkface(crop=200)")


def test_recipe_is_the_papers() -> None:
    recipe = UTKFace.recipe
    assert (recipe.epochs, recipe.stl_epochs, recipe.batch, recipe.learning_rate) == (60, 20, 512, 1e-3)
    assert recipe.milestones == (0.6, 0.8)


def test_kind_is_known_before_loading(tmp_path: Path) -> None:
    write_faces(tmp_path, 10)
    steps: list[tuple[str, int, int]] = []
    data = SMALL.load(tmp_path, tmp_path / "cache", lambda *step: steps.append(step))
    assert {task.kind for task in data.tasks} == SMALL.kinds
    assert steps == [("decoding", 10, 10)]


def test_catalog_knows_the_source() -> None:
    assert "CVPR 2017, arXiv:1702.08423" in describe_part("dataset", "utkface").source


def test_real_images(real_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = build_part("dataset", "utkface(size=36, limit=500)")
    with caplog.at_level(logging.WARNING, "bench"):
        data = dataset.load(real_root, tmp_path)
    (message,) = caplog.messages
    assert message.startswith("utkface: skipped 2 of 12000 files: '39_1_20170116174525125.jpg.chip.jpg'")
    assert message.endswith("left out 101 byte-identical copies, 46 of them with other labels")
    assert data.train.images.shape == (400, 3, 36, 36)
    assert data.test.images.shape == (100, 3, 36, 36)
    assert "; ".join(data.notes) == message.removeprefix("utkface: ")
    assert not rows(data.train) & rows(data.test)
    genders = data.train.targets["gender"].bincount()
    races = data.train.targets["race"].bincount()
    assert 0.4 < genders[0] / 400 < 0.65  # 52 % of the collection
    assert races.argmax() == 0
    assert 50 < data.train.images.float().mean() < 200
    assert same(data, dataset.load(real_root, tmp_path))
