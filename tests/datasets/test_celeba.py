"""CelebA: lists as published, subsets of them, the crop, and the splits."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import torchvision_import
from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.catalog.description import describe_part
from bench.datasets.celeba import CelebA
from bench.errors import BenchError
from bench.values import Split

SMALL = CelebA(size=10)
NAMES = ("Bald", "5_o_Clock_Shadow", "Young")


def write_image(root: Path, number: int, size: tuple[int, int] = (89, 109)) -> None:
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 10 + 1, size[0] // 10 + 1, 3))
    Image.fromarray(pixels.astype(np.uint8)).resize(size).save(folder / f"{number:06}.jpg")


def labels_of(number: int) -> list[int]:
    return [number % 2, number // 2 % 2, number // 4 % 2]


def write_lists(
    root: Path, numbers: Sequence[int], partitions: Sequence[int], identities: Sequence[int] = ()
) -> None:
    folder = root / "celeba"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{n:06}.jpg " + " ".join(f"{2 * label - 1:2}" for label in labels_of(n)) for n in numbers]
    head = [str(len(rows)), " ".join(NAMES) + " "]
    (folder / "list_attr_celeba.txt").write_text("\n".join([*head, *rows]) + "\n")
    pairs = {"list_eval_partition.txt": partitions, "identity_CelebA.txt": identities}
    for name, values in pairs.items():
        lines = [f"{n:06}.jpg {value}\n" for n, value in zip(numbers, values, strict=False)]
        (folder / name).write_text("".join(lines))


def write_set(root: Path, partitions: Sequence[int], identities: Sequence[int] = ()) -> None:
    numbers = range(1, len(partitions) + 1)
    for number in numbers:
        write_image(root, number)
    write_lists(root, numbers, partitions, identities)


def numbers_in(root: Path, split: Split) -> list[int]:
    """Return which images a split has, by their pixels; labels must be those of the image."""
    known = {}
    for path in (root / "celeba" / "img_align_celeba").iterdir():
        with Image.open(path) as image:
            part = torchvision_import.functional.center_crop(image, [70, 70])
        small = torchvision_import.functional.resize(
            part, [10, 10], torchvision_import.transforms.InterpolationMode.BILINEAR
        )
        known[torchvision_import.functional.pil_to_tensor(small).numpy().tobytes()] = int(path.stem)
    found = [known[image.numpy().tobytes()] for image in split.images]
    for row, number in enumerate(found):
        assert [int(split.targets[name][row]) for name in NAMES] == labels_of(number)
    return found


def load(root: Path, dataset: CelebA = SMALL) -> MultiTaskData:
    return dataset.load(root, root / "cache")


def test_official_partition_is_the_split_and_labels_go_with_their_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path, [0, 2, 1, 0, 2, 0])
    with caplog.at_level(logging.WARNING, "bench"):
        data = load(tmp_path)
    assert isinstance(SMALL, Dataset)
    assert [(task.name, task.outputs) for task in data.tasks] == [(name, 1) for name in NAMES]
    assert numbers_in(tmp_path, data.train) == [1, 4, 6]
    assert numbers_in(tmp_path, data.test) == [2, 5]
    assert data.train.images.dtype == torch.uint8
    assert all(target.dtype == torch.int64 for target in data.train.targets.values())
    assert data.notes == ()
    assert not caplog.messages


def test_second_load_is_the_same_and_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, [0, 2, 0])
    first = load(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    second = load(tmp_path)
    for one, other in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(one.targets[name], other.targets[name]) for name in NAMES)


@pytest.mark.parametrize(("width", "height", "inner"), [(178, 218, 140), (89, 109, 70), (356, 436, 280)])
def test_crop_is_the_papers_at_any_resolution(tmp_path: Path, width: int, height: int, inner: int) -> None:
    for number in (1, 2):
        write_image(tmp_path, number, (width, height))
    write_lists(tmp_path, [1, 2], [0, 2])
    data = load(tmp_path, CelebA())
    assert (data.augmentation.crop, data.augmentation.flip) == (64, True)
    with Image.open(tmp_path / "celeba" / "img_align_celeba" / "000001.jpg") as image:
        part = torchvision_import.functional.center_crop(image, [inner, inner])
    wanted = torchvision_import.functional.resize(
        part, [70, 70], torchvision_import.transforms.InterpolationMode.BILINEAR
    )
    assert torch.equal(data.train.images[0], torchvision_import.functional.pil_to_tensor(wanted))


def test_what_lists_and_folder_do_not_share_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lists(tmp_path, range(1, 11), [0] * 5 + [2] * 5)
    for number in (1, 3, 7, 8, 20, 21, 22):
        write_image(tmp_path, number)
    (tmp_path / "celeba" / "img_align_celeba" / "000008.jpg").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "bench"):
        data = load(tmp_path)
    assert numbers_in_readable(tmp_path, data) == ([1, 3], [7])
    assert data.notes == (
        "6 of 10 images in the lists are missing",
        "3 of 7 images are not in the lists",
        "skipped 1 of 7 files: '000008.jpg' (unreadable image)",
    )
    assert caplog.messages == [f"celeba: {'; '.join(data.notes)}"]
    assert load(tmp_path).notes == data.notes


def numbers_in_readable(root: Path, data: MultiTaskData) -> tuple[list[int], list[int]]:
    (root / "celeba" / "img_align_celeba" / "000008.jpg").rename(root / "damaged")
    found = numbers_in(root, data.train), numbers_in(root, data.test)
    (root / "damaged").rename(root / "celeba" / "img_align_celeba" / "000008.jpg")
    return found


@pytest.mark.parametrize("partitions", [[0, 0, 1, 0] * 5, [2] * 20, [1] * 20])
def test_one_sided_partition_is_split_by_identity(
    tmp_path: Path, partitions: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    identities = [number % 7 for number in range(20)]
    write_set(tmp_path, partitions, identities)
    with caplog.at_level(logging.WARNING, "bench"):
        data = load(tmp_path)
    train, test = numbers_in(tmp_path, data.train), numbers_in(tmp_path, data.test)
    assert sorted(train + test) == list(range(1, 21))
    assert not {identities[n - 1] for n in train} & {identities[n - 1] for n in test}
    assert len({identities[n - 1] for n in test}) == 2  # a fifth of seven, rounded up
    (note,) = data.notes
    assert note.endswith(f"are split by identity, {len(test)} of 20 for testing")
    assert caplog.messages == [f"celeba: {note}"]
    assert numbers_in(tmp_path, load(tmp_path).test) == test
    seeds = [CelebA(size=10, data_seed=seed) for seed in range(1, 5)]
    assert any(numbers_in(tmp_path, load(tmp_path, other).test) != test for other in seeds)
    half = numbers_in(tmp_path, load(tmp_path, CelebA(size=10, test_fraction=0.5)).test)
    assert len({identities[n - 1] for n in half}) == 4


def test_split_by_identity_needs_the_identities(tmp_path: Path) -> None:
    write_set(tmp_path, [0, 0, 0], [1, 2])
    with pytest.raises(BenchError, match=r"identity_CelebA\.txt has no identity for 000003\.jpg"):
        load(tmp_path)
    write_lists(tmp_path, [1, 2, 3], [0, 0, 0], [1, 1, 1])
    with pytest.raises(BenchError, match=r"test_fraction = 0\.2 of 1 identities leaves a split empty"):
        load(tmp_path)
    (tmp_path / "celeba" / "identity_CelebA.txt").unlink()
    with pytest.raises(BenchError, match=r"leaves a split empty; to split by identity, .*identity_CelebA"):
        load(tmp_path)


def test_limit_takes_its_share_of_each_split(tmp_path: Path) -> None:
    write_set(tmp_path, [0] * 15 + [2] * 5 + [1] * 3)
    chosen = {}
    for limit in (2, 8, 12, 50):
        data = load(tmp_path, CelebA(size=10, limit=limit))
        chosen[limit] = numbers_in(tmp_path, data.train), numbers_in(tmp_path, data.test)
    assert {limit: (len(train), len(test)) for limit, (train, test) in chosen.items()} == {
        2: (1, 1),
        8: (6, 2),
        12: (9, 3),
        50: (15, 5),
    }
    for part in range(2):
        assert set(chosen[2][part]) < set(chosen[8][part]) < set(chosen[12][part]) < set(chosen[50][part])
    assert chosen[8][0] != list(range(1, 7))


ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        (ATTRIBUTES, 1, "three", r"line 1: 'three' is not the number of images"),
        (
            ATTRIBUTES,
            2,
            "Bald Young Bald",
            r"line 2: the names of the attributes are missing or not distinct",
        ),
        (ATTRIBUTES, 2, "", r"line 2: the names of the attributes are missing"),
        (ATTRIBUTES, 2, "Bald Young", r"line 3: 3 values, not 2"),
        (ATTRIBUTES, 3, "000001.jpg -1 1 1 1", r"line 3: 4 values, not 3"),
        (ATTRIBUTES, 4, "000002.jpg -1 1", r"line 4: 2 values, not 3"),
        (ATTRIBUTES, 4, "000002.jpg -1 1 1 1", r"line 4: 4 values, not 3"),
        (ATTRIBUTES, 5, "000003.jpg -1 0 1", r"line 5: '0' is not -1 or 1"),
        (ATTRIBUTES, 5, "000003.jpg -1 yes 1", r"line 5: 'yes' is not -1 or 1"),
        (ATTRIBUTES, 5, "000003.jpg -1 1 257", r"line 5: '257' is not -1 or 1"),
        (ATTRIBUTES, 5, "000002.jpg -1 1 1", r"line 5: 000002\.jpg is listed twice"),
        (PARTITION, 1, "000001.jpg", r"line 1: 0 values, not 1"),
        (PARTITION, 2, "000002.jpg 3", r"line 2: '3' is not 0 or 1 or 2"),
        (PARTITION, 2, "000002.jpg 1 1", r"line 2: 2 values, not 1"),
        (PARTITION, 3, "000001.jpg 0", r"line 3: 000001\.jpg is listed twice"),
        ("identity_CelebA.txt", 2, "000002.jpg Ada", r"line 2: 'Ada' is not an integer"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, name: str, line: int, text: str, message: str) -> None:
    write_set(tmp_path, [0, 0, 0], [1, 2, 3])
    path = tmp_path / "celeba" / name
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines))
    with pytest.raises(BenchError, match=message) as error:
        load(tmp_path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_column_too_many_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, [0, 0, 0], [1, 2, 3])
    path = tmp_path / "celeba" / "identity_CelebA.txt"
    path.write_text(
        "".join(f"{line} {number}\n" for number, line in enumerate(path.read_text().splitlines()))
    )
    with pytest.raises(BenchError, match="line 1: 2 values, not 1"):
        load(tmp_path)


def test_blank_lines_do_no_harm(tmp_path: Path) -> None:
    write_set(tmp_path, [0, 2, 0])
    for name in (ATTRIBUTES, PARTITION):
        path = tmp_path / "celeba" / name
        path.write_text(path.read_text().replace("000002", "\n000002") + "\n\n")
    assert numbers_in(tmp_path, load(tmp_path).train) == [1, 3]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"<html>\n<body>not found</body>\n</html>\n"])
@pytest.mark.parametrize("name", [ATTRIBUTES, PARTITION])
def test_file_that_is_no_list_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    write_set(tmp_path, [0, 2])
    (tmp_path / "celeba" / name).write_bytes(content)
    with pytest.raises(BenchError) as error:
        load(tmp_path)
    assert str(tmp_path / "celeba") in str(error.value)


def test_what_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--data-root with celeba/img_align_celeba/\*\.jpg"):
        SMALL.load(None, tmp_path / "cache")
    write_set(tmp_path, [0, 2])
    assert SMALL.missing(tmp_path) is None
    (tmp_path / "celeba" / PARTITION).unlink()
    assert "list_eval_partition.txt; pass --data-root" in str(SMALL.missing(tmp_path))
    with pytest.raises(BenchError, match=r"there is no .*list_eval_partition\.txt"):
        load(tmp_path)


def test_no_image_of_the_lists_is_refused(tmp_path: Path) -> None:
    write_lists(tmp_path, [1, 2], [0, 2])
    write_image(tmp_path, 3)
    with pytest.raises(
        BenchError, match=r"none of the images in .*img_align_celeba is in the lists of .*celeba"
    ):
        load(tmp_path)


@pytest.mark.parametrize("params", ["size=4", "limit=1", "test_fraction=1", "data_seed=-1", "crop=2"])
def test_parameters_out_of_range_are_refused(params: str) -> None:
    with pytest.raises(BenchError, match=params.partition("=")[0]):
        build_part("dataset", f"celeba({params})")


def test_crop_beyond_the_size_is_refused() -> None:
    with pytest.raises(BenchError, match="crop = 100 is larger than size = 70"):
        build_part("dataset", "celeba(crop=100)")


def test_recipe_is_the_papers() -> None:
    recipe = CelebA.recipe
    assert (recipe.epochs, recipe.stl_epochs, recipe.batch, recipe.learning_rate) == (60, 10, 512, 1e-3)
    assert recipe.milestones == (0.6, 0.8)
    assert "ICCV 2015, arXiv:1411.7766" in describe_part("dataset", "celeba").source


def test_real_images(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "celeba").is_dir():
        pytest.skip(f"no celeba under {data_root}")
    data = CelebA(size=16).load(data_root, tmp_path)
    assert (data.train.images.shape, data.test.images.shape) == ((1350, 3, 16, 16), (420, 3, 16, 16))
    assert len(data.tasks) == len(data.train.targets) == 40
    assert data.notes == ()
    rates = {name: float(target.float().mean()) for name, target in data.train.targets.items()}
    assert rates["Male"] == pytest.approx(0.288, abs=0.001)
    assert rates["Smiling"] == pytest.approx(0.470, abs=0.001)
    assert 50 < data.train.images.float().mean() < 200


def test_real_images_at_half_resolution(data_root: Path, tmp_path: Path) -> None:
    root = data_root / "celeba_half"
    if not root.is_dir():
        pytest.skip(f"no celeba_half under {data_root}")
    data = CelebA(limit=300).load(root, tmp_path)
    assert len(data.train) + len(data.test) == 300
    (note,) = data.notes
    assert "split by identity" in note
    assert note.endswith(" of 6000 for testing")
    (index,) = tmp_path.glob("celeba-*/index.json")
    names = json.loads(index.read_text())["kept"]["index"]["names"]
    lines = (root / "celeba" / "identity_CelebA.txt").read_text().splitlines()
    identity = dict(line.split() for line in lines)
    train, test = names[: len(data.train)], names[len(data.train) :]
    assert not {identity[name] for name in train} & {identity[name] for name in test}
    for name, image in zip(test, data.test.images, strict=True):
        with Image.open(root / "celeba" / "img_align_celeba" / name) as file:
            assert np.array_equal(image.permute(1, 2, 0), np.asarray(file)[20:90, 10:80])
