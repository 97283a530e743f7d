"""A folder of images with a table of labels: what becomes of columns and rows, and what is refused."""

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from bench.api import Dataset, MultiTaskData
from bench.catalog.build import build_part
from bench.datasets.folder import Folder
from bench.datasets.label_columns import MISSING_WORDS, read_columns
from bench.datasets.label_table import LabelTable
from bench.errors import BenchError
from bench.values import MISSING, Split

SMALL = Folder(size=16)

BIG = ("123456789012345678901", "123456789012345678902")
"""Integers beyond 64 bits."""


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_table(root: Path, text: str) -> Path:
    """Write the labels of ``ROOT/images`` and return their file."""
    path = root / "images" / "labels.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_folder(root: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write images 00.png, 01.png, ... and these columns of labels."""
    count = len(next(iter(columns.values())))
    lines = [",".join(["image", *columns])]
    for row in range(count):
        write_image(root / "images" / f"{row:02}.png", row)
        lines.append(",".join([f"{row:02}.png", *(str(column[row]) for column in columns.values())]))
    write_table(root, "\n".join(lines))


def load(root: Path, dataset: Folder = SMALL) -> MultiTaskData:
    return dataset.load(root, root / "cache")


def halves(count: int) -> list[str]:
    """Return the split of rows: all but the last two are for training."""
    return ["train"] * (count - 2) + ["test"] * 2


def labels(data: MultiTaskData, task: str) -> list[int]:
    return torch.cat([data.train.targets[task], data.test.targets[task]]).tolist()


def pixels(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def original(root: Path, name: str) -> Tensor:
    with Image.open(root / "images" / name) as image:
        return torch.from_numpy(np.array(image).transpose(2, 0, 1))


def test_labels_go_with_their_images(tmp_path: Path) -> None:
    kinds = [("cat", "dog", "eel")[row % 3] for row in range(10)]
    write_folder(tmp_path, {"kind": kinds})
    data = load(tmp_path)
    assert isinstance(SMALL, Dataset)
    assert data.notes == ("column 'kind': words, 3 classes",)
    found = {}
    for split in (data.train, data.test):
        for image, label in zip(split.images, split.targets["kind"].tolist(), strict=True):
            found[image.numpy().tobytes()] = data.tasks[0].class_names[label]  # type: ignore[attr-defined]
    assert found == {
        original(tmp_path, f"{row:02}.png").numpy().tobytes(): kind for row, kind in enumerate(kinds)
    }


@pytest.mark.parametrize(
    ("cells", "names", "classes"),
    [
        (["True", "FALSE", "true", "False"], ("false", "true"), [1, 0, 1, 0]),
        (["yes", "No", "", "no"], ("no", "yes"), [1, 0, MISSING, 0]),
        (["1", "0", "1.0", " 0 "], ("0", "1"), [1, 0, 1, 0]),
        (["0.5", "-2", "0.5", "0.5"], ("-2", "0.5"), [1, 0, 1, 1]),
        (["b", "a", "b", "b"], ("a", "b"), [1, 0, 1, 1]),
        (["b", "a", "", "C"], ("C", "a", "b"), [2, 1, MISSING, 0]),
        (["10", "2", "7", ""], ("2", "7", "10"), [2, 0, 1, MISSING]),
        (["2", "x", "10", ""], ("10", "2", "x"), [1, 2, 0, MISSING]),
        (["07", "8", "7", "7.0"], ("7", "8"), [0, 1, 0, 0]),
        (["1_0", "10", "0_1", "1_0"], ("0_1", "10", "1_0"), [2, 1, 0, 2]),
        (["１", "1", "٣", "1"], ("1", "٣", "１"), [2, 0, 1, 0]),
        (["0x1", "0x2", "0x1", "1"], ("0x1", "0x2", "1"), [0, 1, 0, 2]),
        (
            ["12345678901234567", "12345678901234568"] * 2,
            ("12345678901234567", "12345678901234568"),
            [0, 1] * 2,
        ),
        (["18446744073709551615", "1"] * 2, ("1", "18446744073709551615"), [1, 0] * 2),
        (["123456789012345678901", "123456789012345678902"] * 2, BIG, [0, 1] * 2),
        (["0.30000000000000004", "0.3"] * 2, ("0.3", "0.30000000000000004"), [1, 0] * 2),
        (["a", "NA", "b", "None"], ("a", "b"), [0, MISSING, 1, MISSING]),
        (["1", "nan", "2", "n/a"], ("1", "2"), [0, MISSING, 1, MISSING]),
        (["true", "1", "true", "1"], ("1", "true"), [1, 0, 1, 0]),
    ],
)
def test_type_of_a_column_decides_its_task(
    tmp_path: Path, cells: list[str], names: tuple[str, ...], classes: list[int]
) -> None:
    write_folder(tmp_path, {"task": cells, "split": halves(4)})
    data = load(tmp_path)
    (task,) = data.tasks
    assert task.class_names == names  # type: ignore[attr-defined]
    assert labels(data, "task") == classes


def test_quantities_fall_into_fifths_of_the_training_rows(tmp_path: Path) -> None:
    train = [row + 0.5 for row in range(10)]
    test = [-100, *[1000] * 5]
    write_folder(tmp_path, {"weight": [*train, *test], "split": ["train"] * 10 + ["test"] * 6})
    data = load(tmp_path)
    (task,) = data.tasks
    assert task.class_names == ("up to 1.5", "1.5 to 3.5", "3.5 to 5.5", "5.5 to 7.5", "over 7.5")  # type: ignore[attr-defined]
    assert data.train.targets["weight"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert data.test.targets["weight"].tolist() == [0, 4, 4, 4, 4, 4]


def test_many_whole_numbers_are_a_quantity(tmp_path: Path) -> None:
    few, many = [row % 20 for row in range(42)], [row % 21 for row in range(42)]
    write_folder(tmp_path, {"few": few, "many": many})
    assert [task.classes for task in load(tmp_path).tasks] == [20, 5]


def test_skewed_quantity_has_no_empty_class_in_training(tmp_path: Path) -> None:
    numbers = [0.0] * 30 + [1.5, 2.5, 3.5, 4.5]
    write_folder(tmp_path, {"n": numbers, "split": halves(34)})
    data = load(tmp_path)
    assert data.tasks[0].class_names == ("up to 0", "over 0")  # type: ignore[attr-defined]
    assert data.train.targets["n"].bincount().tolist() == [30, 2]


def test_column_decides_the_split(tmp_path: Path) -> None:
    parts = ["test", "train", "Train", "TEST", "train"]
    write_folder(tmp_path, {"a": [0, 1, 0, 1, 0], "Split": parts, "b": [1, 1, 0, 1, 0]})
    data = load(tmp_path)
    assert [task.name for task in data.tasks] == ["a", "b"]
    assert pixels(data.test) == {original(tmp_path, name).numpy().tobytes() for name in ("00.png", "03.png")}
    assert len(data.train) == 3


def test_drawn_split_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", {"a": [row % 2 for row in range(20)]})
    shutil.copytree(tmp_path / "one" / "images", tmp_path / "two" / "images")
    table = tmp_path / "two" / "images" / "labels.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(lines)]))
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert torch.equal(one.test.images, two.test.images)
    assert labels(one, "a") == labels(two, "a")
    assert (len(one.train), len(one.test)) == (16, 4)
    assert not pixels(one.train) & pixels(one.test)
    other = load(tmp_path / "one", Folder(size=16, data_seed=1))
    assert pixels(other.test) != pixels(one.test)


def test_limit_and_augmentation(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [row % 2 for row in range(20)]})
    data = load(tmp_path, Folder(size=28, limit=10, flip=False))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.train.images.shape == (8, 3, 28, 28)
    assert (data.augmentation.crop, data.augmentation.flip) == (26, False)
    assert load(tmp_path, Folder(size=28, crop=20)).augmentation.crop == 20


def test_images_may_be_in_folders_below_and_the_folder_anywhere(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "my [own]" / "set" / f"sub {number % 2}" / f"{number}.PNG", number)
    lines = ["image,a", *(f"./sub {n % 2}//{n}.PNG,{n % 3}" for n in range(6))]
    (tmp_path / "my [own]" / "set" / "labels.csv").write_text("\n".join(lines))
    data = load(tmp_path, Folder(path="my [own]/set", size=16))
    assert len(data.train) + len(data.test) == 6
    again = build_part("dataset", 'folder(path="my [own]/set", size=16)')
    assert again == Folder(path="my [own]/set", size=16)


def test_byte_order_mark_quotes_and_blank_lines_are_read(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}, x.png", number)
    rows = "\r\n\r\n".join(f'"{n}, x.png","{"a, b" if n % 2 else "c"}"' for n in range(4))
    write_table(tmp_path, f"\ufeffimage,kind\r\n{rows}\r\n")
    data = load(tmp_path)
    assert [(t.name, t.class_names) for t in data.tasks] == [("kind", ("a, b", "c"))]  # type: ignore[attr-defined]


def test_rows_without_a_usable_image_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [row % 2 for row in range(20)]})
    (tmp_path / "images" / "03.png").unlink()
    (tmp_path / "images" / "04.png").unlink()
    (tmp_path / "images" / "04.png").mkdir()
    (tmp_path / "images" / "05.png").write_bytes(b"no image")
    for _ in range(2):
        data = load(tmp_path)
        assert len(data.train) + len(data.test) == 17
        assert data.notes == (
            "column 'a': numbers, 2 classes in their order",
            "skipped 3 of 20 files: '03.png' (no such file), '04.png' (no such file), "
            "'05.png' (unreadable image)",
        )


def test_columns_with_nothing_to_tell_apart_are_left_out(tmp_path: Path) -> None:
    columns = {
        "a": [row % 2 for row in range(24)],
        "same": ["x"] * 24,
        "empty": [""] * 24,
        "id": [f"id{row}" for row in range(24)],
        "nearly": [0.5] * 22 + [0.25, 0.75],
        "late": [""] * 21 + [1.5, 2.5, 3.5],
        "split": ["train"] * 21 + ["test"] * 3,
    }
    write_folder(tmp_path, columns)
    data = load(tmp_path)
    assert [task.name for task in data.tasks] == ["a"]
    assert data.notes == (
        "column 'a': numbers, 2 classes in their order",
        "column 'same' is left out: all its labels are the same, 'x'",
        "column 'empty' is left out: it has no label",
        "column 'id' is left out: no value occurs twice",
        "column 'nearly' is left out: nearly all its numbers are the same",
        "column 'late' is left out: it has no number in the training rows",
    )


def test_one_number_in_two_spellings_is_one_class_that_is_left_out(tmp_path: Path) -> None:
    columns = {"a": [0, 1] * 2, "b": ["1", "1.0"] * 2, "c": ["07", "7"] * 2, "split": halves(4)}
    write_folder(tmp_path, columns)
    data = load(tmp_path)
    assert [task.name for task in data.tasks] == ["a"]
    assert data.notes[1:] == (
        "column 'b' is left out: all its labels are the same number, 1",
        "column 'c' is left out: all its labels are the same number, 7",
    )


def test_what_every_column_was_taken_for_is_noted_but_not_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {
        "n": ["1", "2", "1.0", "", "2"] * 4 + ["1", "2", "1.0", "null", "2"],
        "sex": ["male", "Male", "female", "NA", "None"] * 5,
        "flag": ["True", "true", "FALSE", "false", "true"] * 5,
        "age": [f"{row}.5" for row in range(25)],
        "split": halves(25),
    }
    write_folder(tmp_path, columns)
    data = load(tmp_path)
    assert data.notes == (
        "column 'n': numbers, 2 classes in their order; '1', '1.0' are one class;"
        " 5 rows without a label (empty, or 'null')",
        "column 'sex': words, 3 classes; 'Male', 'male' are different classes;"
        " 10 rows without a label ('NA', 'None')",
        "column 'flag': truth values, 2 classes; 'FALSE', 'false' are one class;"
        " 'True', 'true' are one class",
        "column 'age': 25 different numbers, 5 classes at quantiles of the training rows",
    )
    assert not caplog.messages


def test_words_are_no_numbers_however_many_there_are(tmp_path: Path) -> None:
    write_folder(tmp_path, {"word": [f"{row % 21}_{row % 2}" for row in range(84)]})
    assert [task.classes for task in load(tmp_path).tasks] == [42]


@given(
    st.lists(
        st.sampled_from([*MISSING_WORDS, "0_1", "1e", "0x1", "+5", ".5", "5.", "1e3", "--1", "1 2", "١", "x"])
        | st.integers(-(2**63), 2**63 - 1).map(str)  # read_csv has text for larger ones beside a missing cell
        | st.floats(allow_nan=False, allow_infinity=False).map(repr)
        | st.text("0123456789.eE+-_", min_size=1, max_size=4),
        min_size=4,
        max_size=12,
    )
)
def test_cells_are_numbers_and_missing_where_pandas_reads_them_so(cells: list[str]) -> None:
    table = io.StringIO("a|b\n" + "".join(f"{cell}|\n" for cell in cells))
    column = pd.read_csv(table, sep="|", usecols=["a"], quoting=csv.QUOTE_NONE, low_memory=False)["a"]
    rows = pd.DataFrame({"a": cells}, [str(row) for row in range(len(cells))], dtype=object)
    label_table = LabelTable(Path("labels.csv"), rows, dict.fromkeys(rows.index, 0))
    try:
        read = read_columns(label_table, rows, np.ones(len(cells), dtype=bool))
    except BenchError:
        assert column.nunique() < 2 or column.dtype.kind == "f"  # one value, nearly one, or an infinite one
        return
    missing = read.labels["a"] == MISSING
    assert missing.tolist() == column.isna().tolist()
    is_number = "numbers" in read.decisions[0]
    assert is_number == pd.api.types.is_numeric_dtype(column)


@pytest.mark.parametrize("first", ["00.png", "elsewhere.JPG", "sub/photo"])
def test_table_without_a_header_is_refused(tmp_path: Path, first: str) -> None:
    write_folder(tmp_path, {"a": [0, 1] * 3})
    (tmp_path / "images" / "sub").mkdir()
    (tmp_path / "images" / "sub" / "photo").write_bytes(b"")
    write_table(tmp_path, f"{first},1\n01.png,0\n02.png,1\n03.png,0\n")
    with pytest.raises(BenchError, match=rf"line 1: '{first}' is an image, but the first line must name"):
        load(tmp_path)


def test_packed_images_are_named_with_the_command_that_extracts_them(tmp_path: Path) -> None:
    write_table(tmp_path, "image,a\n00.png,1\n01.png,0\n")
    (tmp_path / "images" / "photos.zip").write_bytes(b"")
    with pytest.raises(
        BenchError, match=r"none of the images .* there is .*photos\.zip; extract with: unzip"
    ):
        load(tmp_path)


def test_new_labels_need_no_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {"a": [0, 1] * 5})
    first = load(tmp_path)
    table = tmp_path / "images" / "labels.csv"
    table.write_text(table.read_text().replace(",0", ",2"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    second = load(tmp_path)
    assert torch.equal(second.train.images, first.train.images)
    assert torch.equal(second.train.targets["a"], 1 - first.train.targets["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: it needs a column of images, a comma and"),
        ("image;a\n00.png;1\n", "line 1: it needs a column of images, a comma and"),
        ("image,a\n", "names no image"),
        ("image,a,\n00.png,1,2\n", "line 1: column 3 has no name"),
        ("image,a,a\n00.png,1,2\n", "line 1: there are two columns 'a'"),
        ("image,split,SPLIT\n00.png,train,2\n", "line 1: there are two columns 'split'"),
        ("image,a\n00.png,1\n01.png\n", "line 3: 1 cells, but the first line has 2"),
        ("image,a\n00.png,1\n\n./00.png,0\n", "line 4: '00.png' is already in line 2"),
        ("image,a\n00.png,1\n../01.png,0\n", "line 3: '../01.png' is not the path of an image below"),
        ("image,a\n/etc/passwd,1\n", "line 2: '/etc/passwd' is not the path of an image below"),
        ("image,a\n ,1\n", "line 2: '' is not the path of an image below"),
        ("image,a\n00.png,\x1b[31m\n", "line 2: it has a control character"),
        ('image,a\n00.png,"1\n', "line 2: unexpected end of data"),
        ("image,a,split\n00.png,1,val\n", "line 2, column 'split': 'val' is neither train nor test"),
        ("image,a,split\n00.png,1,\n", "line 2, column 'split': '' is neither train nor test"),
        ("image,a\n00.png,1.5\n01.png,inf\n02.png,2.5\n", "line 3, column 'a': 'inf' is not a finite number"),
        ("image,a\n00.png,1\n01.png,1\n", "no column to learn: column 'a' is left out"),
        ("image,split\n00.png,train\n01.png,test\n", "no column to learn: it has only images and the split"),
        ("image,a\n77.png,1\n", "none of the images"),
        ("image,a,split\n00.png,1,train\n01.png,0,train\n", "a split is empty"),
        ("image,a\n00.png,1\n", "leaves a split empty"),
    ],
)
def test_malformed_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number:02}.png", number)
    path = write_table(tmp_path, text)
    with pytest.raises(BenchError) as raised:
        load(tmp_path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value) or "split" in message
    assert "\n" not in str(raised.value)


def test_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, "").write_bytes("image,größe\n".encode("latin-1"))
    with pytest.raises(BenchError, match=r"labels\.csv is not UTF-8 text"):
        load(tmp_path)


def test_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--data-root with images/labels\.csv and the images it names"):
        SMALL.load(None, tmp_path)
    with pytest.raises(BenchError, match=r"there is no .*labels\.csv; pass --data-root"):
        load(tmp_path)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b"])
def test_folder_is_below_the_data_root(path: str) -> None:
    with pytest.raises(BenchError, match="is not below the data root"):
        build_part("dataset", f'folder(path="{path}")')


def test_crop_beyond_the_size_is_refused() -> None:
    with pytest.raises(BenchError, match="crop = 200 is larger than size = 140"):
        build_part("dataset", "folder(crop=200)")
