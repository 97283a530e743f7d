"""ChestX-ray14: both layouts, every kind of PNG, findings as published, and the splits."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.catalog.description import describe_part
from bench.datasets.chestxray14 import FINDINGS, ChestXray14
from bench.errors import BenchError
from bench.values import Split

SMALL = ChestXray14(size=8)
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
LABELS = ("No Finding", "Mass", "Mass|Hernia", "Edema|Atelectasis")
FOLDERS = ("images_001/images", "images_002/images", "images_012/images")


def name_of(number: int) -> str:
    return f"{number // 3:08}_{number % 3:03}.png"  # three images of every patient


def pixels_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)


def write_image(folder: Path, number: int, kind: str = "L") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(number)).convert(kind).save(folder / name_of(number))


def write_entries(root: Path, labels: Mapping[int, str], name: str = "Data_Entry_2017.csv") -> Path:
    folder = root / "chestxray14"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{name_of(n)},{text},{n % 3},{n // 3},57,M,PA,2682,2749,0.143,0.143" for n, text in labels.items()
    ]
    (folder / name).write_text("\n".join([HEADER, *rows]) + "\n")
    return folder / name


def write_lists(root: Path, train: Sequence[int], test: Sequence[int]) -> None:
    for name, numbers in (("train_val_list.txt", train), ("test_list.txt", test)):
        (root / "chestxray14" / name).write_text("\n".join(map(name_of, numbers)))


def write_set(root: Path, count: int = 12, test: int = 6) -> None:
    for number in range(count):
        write_image(root / "chestxray14" / "images", number)
    write_entries(root, {number: LABELS[number % 4] for number in range(count)})
    write_lists(root, range(count - test), range(count - test, count))


def load(root: Path, dataset: ChestXray14 = SMALL) -> MultiTaskData:
    return dataset.load(root, root / "cache")


def numbers_in(split: Split, count: int = 12) -> list[int]:
    """Return which images a split has, by their pixels; labels must be those of the image."""
    known = {pixels_of(number).tobytes(): number for number in range(count)}
    found = [known[image.numpy().tobytes()] for image in split.images]
    for row, number in enumerate(found):
        marked = {name for name in FINDINGS if split.targets[name][row]}
        assert marked == set(LABELS[number % 4].split("|")) - {"No Finding"}
    return found


def test_official_lists_are_the_split_and_labels_go_with_their_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path)
    with caplog.at_level(logging.WARNING, "bench"):
        data = load(tmp_path)
    assert isinstance(SMALL, Dataset)
    assert [(task.name, task.outputs) for task in data.tasks] == [(name, 1) for name in FINDINGS]
    assert all(
        task.describe(torch.ones(1).long(), torch.ones(1).long())["headline"] == "auroc"
        for task in data.tasks
    )
    assert numbers_in(data.train) == [0, 1, 2, 3, 4, 5]
    assert numbers_in(data.test) == [6, 7, 8, 9, 10, 11]
    assert data.train.images.shape == (6, 1, 8, 8)
    assert all(target.dtype == torch.int64 for target in data.train.targets.values())
    assert data.notes == ()
    assert not caplog.messages


def test_second_load_is_the_same_and_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path)
    first = load(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    second = load(tmp_path)
    assert numbers_in(second.train) == numbers_in(first.train)
    assert numbers_in(second.test) == numbers_in(first.test)


def test_images_may_lie_in_the_published_folders(tmp_path: Path) -> None:
    write_set(tmp_path)
    for number in range(12):
        target = tmp_path / "chestxray14" / FOLDERS[number % 3]
        target.mkdir(parents=True, exist_ok=True)
        (tmp_path / "chestxray14" / "images" / name_of(number)).rename(target / name_of(number))
    (tmp_path / "chestxray14" / "images").rmdir()
    data = load(tmp_path)
    assert numbers_in(data.train) == [0, 1, 2, 3, 4, 5]
    assert numbers_in(data.test) == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "P"])
def test_every_kind_of_gray_is_one_channel(tmp_path: Path, kind: str) -> None:
    write_set(tmp_path)
    for number in (1, 7):
        write_image(tmp_path / "chestxray14" / "images", number, kind)
    assert numbers_in(load(tmp_path).train) == [0, 1, 2, 3, 4, 5]
    assert numbers_in(load(tmp_path).test) == [6, 7, 8, 9, 10, 11]


def test_what_lists_and_folder_do_not_share_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path)
    folder = tmp_path / "chestxray14" / "images"
    (folder / name_of(1)).unlink()
    (folder / name_of(8)).write_bytes(b"no image")
    write_lists(tmp_path, range(5), range(6, 12))  # 5 is in no list
    write_image(folder, 30)  # in no table
    with caplog.at_level(logging.WARNING, "bench"):
        data = load(tmp_path)
    assert numbers_in(data.train) == [0, 2, 3, 4]
    assert numbers_in(data.test) == [6, 7, 9, 10, 11]
    assert data.notes == (
        "1 of 11 images in the lists are missing",
        "2 of 12 images are not in the lists",
        f"skipped 1 of 12 files: '{name_of(8)}' (unreadable image)",
    )
    assert caplog.messages == [f"chestxray14: {'; '.join(data.notes)}"]
    assert load(tmp_path).notes == data.notes


def test_split_by_patient_needs_no_lists(tmp_path: Path) -> None:
    write_set(tmp_path)
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / "chestxray14" / name).unlink()
    assert "there is no" in str(SMALL.missing(tmp_path))
    dataset = ChestXray14(size=8, split="patient", test_fraction=0.25)
    assert dataset.missing(tmp_path) is None
    data = load(tmp_path, dataset)
    train, test = numbers_in(data.train), numbers_in(data.test)
    assert sorted(train + test) == list(range(12))
    assert len({number // 3 for number in test}) == 1
    assert not {number // 3 for number in train} & {number // 3 for number in test}
    assert numbers_in(load(tmp_path, dataset).test) == test
    others = [
        ChestXray14(size=8, split="patient", test_fraction=0.25, data_seed=seed) for seed in range(1, 6)
    ]
    assert any(numbers_in(load(tmp_path, other).test) != test for other in others)


def test_one_patient_cannot_be_split(tmp_path: Path) -> None:
    write_set(tmp_path, count=3, test=0)
    with pytest.raises(BenchError, match=r"test_fraction = 0\.2 of 1 patients leaves a split empty"):
        load(tmp_path, ChestXray14(size=8, split="patient"))
    with pytest.raises(BenchError, match="of 3 images 3 are for training: a split is empty"):
        load(tmp_path)


def test_limit_takes_its_share_of_each_split(tmp_path: Path) -> None:
    write_set(tmp_path, count=12, test=3)
    some, more = (load(tmp_path, ChestXray14(size=8, limit=limit)) for limit in (4, 8))
    assert (len(some.train), len(some.test)) == (3, 1)
    assert (len(more.train), len(more.test)) == (6, 2)
    assert set(numbers_in(some.train)) < set(numbers_in(more.train)) < set(range(9))
    assert set(numbers_in(some.test)) < set(numbers_in(more.test)) < {9, 10, 11}


def test_the_latest_table_counts(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_entries(tmp_path, dict.fromkeys(range(12), "Nodule"), "Data_Entry_2017_v2020.csv")
    data = load(tmp_path)
    assert {name: int(target.sum()) for name, target in data.train.targets.items() if target.any()} == {
        "Nodule": 6
    }


@pytest.mark.parametrize("end", [",", ""])
def test_rows_may_end_with_a_comma(tmp_path: Path, end: str) -> None:
    write_set(tmp_path)
    path = tmp_path / "chestxray14" / "Data_Entry_2017.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head + end, *(f"{row}," for row in rows), ""]))
    assert numbers_in(load(tmp_path).train) == [0, 1, 2, 3, 4, 5]


def test_blank_lines_do_no_harm(tmp_path: Path) -> None:
    write_set(tmp_path)
    for path in (tmp_path / "chestxray14").glob("*.*"):
        path.write_text(path.read_text().replace("\n", "\n\n") + "\n\n")
    assert numbers_in(load(tmp_path).test) == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.png,Herna,0,1", r"line 4: 'Herna'; did you mean 'Hernia'\?"),
        ("x.png,No Finding|Mass,0,1", r"line 4: 'No Finding\|Mass' is neither findings nor 'No Finding'"),
        ("x.png,,0,1", r"line 4: 'x\.png' is not an image with findings and a patient"),
        ("x.png,Mass,0,", r"line 4: 'x\.png' is not an image with findings and a patient"),
        (",Mass,0,1", r"line 4: '' is not an image with findings and a patient"),
        ("x.png", r"line 4: 'x\.png' is not an image with findings and a patient"),
        (f"{name_of(0)},Mass,0,1", rf"line 4: '{name_of(0)}' is listed twice"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    write_set(tmp_path)
    path = tmp_path / "chestxray14" / "Data_Entry_2017.csv"
    lines = path.read_text().splitlines()
    lines[3] = row
    path.write_text("\n".join(lines))
    with pytest.raises(BenchError, match=message) as error:
        load(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "<html>", HEADER.replace("Patient ID", "Patient")])
def test_table_without_its_columns_is_refused(tmp_path: Path, content: str) -> None:
    write_set(tmp_path)
    path = tmp_path / "chestxray14" / "Data_Entry_2017.csv"
    path.write_text(content)
    with pytest.raises(BenchError, match="cannot read") as error:
        load(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("test_list.txt", f"{name_of(7)} {name_of(8)}", "line 2: .* is not the name of a PNG image"),
        ("train_val_list.txt", "nothing", "line 2: 'nothing' is not the name of a PNG image"),
        ("test_list.txt", name_of(6), f"line 2: '{name_of(6)}' is listed twice"),
        ("test_list.txt", name_of(0), f"line 2: '{name_of(0)}' is also in train_val_list.txt"),
    ],
)
def test_malformed_list_is_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    write_set(tmp_path)
    path = tmp_path / "chestxray14" / name
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("\n".join(lines))
    with pytest.raises(BenchError, match=message) as error:
        load(tmp_path)
    assert str(error.value).startswith(str(path))


def test_what_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--data-root with chestxray14/Data_Entry_2017\*\.csv"):
        SMALL.load(None, tmp_path / "cache")
    write_entries(tmp_path, {0: "Mass"})
    write_lists(tmp_path, [0], [])
    with pytest.raises(BenchError, match=r"there is no .*images\*; pass --data-root"):
        load(tmp_path)
    write_image(tmp_path / "chestxray14" / "images", 5)
    with pytest.raises(BenchError, match=r"none of the 1 images in .*chestxray14 is in its lists"):
        load(tmp_path)


@pytest.mark.parametrize("params", ["size=4", "limit=1", "test_fraction=0", "split=other", "crop=2"])
def test_parameters_out_of_range_are_refused(params: str) -> None:
    with pytest.raises(BenchError, match=params.partition("=")[0]):
        build_part("dataset", f"chestxray14({params})")


def test_crop_and_recipe_are_the_papers(tmp_path: Path) -> None:
    write_set(tmp_path)
    for dataset, crop in (
        (ChestXray14(), 224),
        (ChestXray14(size=128), 112),
        (ChestXray14(size=9, crop=9), 9),
    ):
        augmentation = load(tmp_path, dataset).augmentation
        assert (augmentation.crop, augmentation.flip) == (crop, True)
    recipe = ChestXray14.recipe
    assert (recipe.epochs, recipe.stl_epochs, recipe.batch, recipe.learning_rate) == (60, 20, 128, 1e-3)
    assert "CVPR 2017, arXiv:1705.02315" in describe_part("dataset", "chestxray14").source
    with pytest.raises(BenchError, match="crop = 300 is larger than size = 256"):
        build_part("dataset", "chestxray14(crop=300)")


@pytest.fixture
def real(data_root: Path, tmp_path: Path) -> MultiTaskData:
    if not (data_root / "chestxray14").is_dir():
        pytest.skip(f"no chestxray14 under {data_root}")
    return ChestXray14(size=16).load(data_root, tmp_path)


def test_real_images(real: MultiTaskData) -> None:
    assert (real.train.images.shape, real.test.images.shape) == ((690, 1, 16, 16), (310, 1, 16, 16))
    assert real.notes == ()
    counts = {
        name: (int(target.sum()), int(real.test.targets[name].sum()))
        for name, target in real.train.targets.items()
    }
    assert counts["Effusion"] == (96, 74)
    assert counts["Hernia"] == (1, 8)
    assert counts["Nodule"] == (37, 2)
    assert 50 < real.train.images.float().mean() < 200


def test_finding_that_is_not_in_the_test_set_is_undefined(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "chestxray14").is_dir():
        pytest.skip(f"no chestxray14 under {data_root}")
    data = ChestXray14(size=8, split="patient", data_seed=1).load(data_root, tmp_path)
    task = next(task for task in data.tasks if task.name == "Hernia")
    target = data.test.targets["Hernia"]
    assert data.train.targets["Hernia"].any()
    assert not target.any()
    scorer = task.scorer()
    scorer.update(torch.linspace(-1, 1, len(target))[:, None], target)
    scores = scorer.compute()
    assert scores["auroc"] is None
    assert scores["accuracy"] is not None
