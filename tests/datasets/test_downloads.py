"""Downloads as mirrors give them: read as our own layout is, or refused with what to do."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from bench.api import Dataset, MultiTaskData
from bench.datasets.celeba import CelebA
from bench.datasets.chestxray14 import ChestXray14
from bench.datasets.cifar import CIFAR100
from bench.datasets.data_root import FileLayout, extraction_command
from bench.datasets.folder import Folder
from bench.datasets.nyuv2 import NYUv2
from bench.datasets.utkface import UTKFace
from bench.errors import BenchError

Files = dict[str, bytes]
"""Path below the data root → content."""

COUNT = 8
BOM = b"\xef\xbb\xbf"
ATTRIBUTES = ("Bald", "Young")


def image(number: int, width: int = 22, height: int = 22, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def lines(*rows: str) -> bytes:
    return "\n".join([*rows, ""]).encode()


def celeba_files() -> Files:
    """Return a set with PNG content, so that an ending changes nothing; images 6 and 7 are for testing."""
    names = [f"{number:06}.jpg" for number in range(COUNT)]
    attributes = [f"{name}  1 {2 * (number % 3 == 0) - 1:2}" for number, name in enumerate(names)]
    return {
        **{f"celeba/img_align_celeba/{name}": image(n, 18) for n, name in enumerate(names)},
        "celeba/list_attr_celeba.txt": lines(str(COUNT), " ".join(ATTRIBUTES) + " ", *attributes),
        "celeba/list_eval_partition.txt": lines(*(f"{name} {2 * (n > 5)}" for n, name in enumerate(names))),
    }


def celeba_tables_as_csv(files: Files) -> Files:
    """Replace the lists by the tables that Kaggle has."""
    changed = {path: content for path, content in files.items() if not path.endswith(".txt")}
    attributes = files["celeba/list_attr_celeba.txt"].decode().splitlines()[2:]
    partition = files["celeba/list_eval_partition.txt"].decode().splitlines()
    header = ",".join(["image_id", *ATTRIBUTES])
    rows = [",".join(line.split()) for line in attributes]
    changed["celeba/list_attr_celeba.csv"] = lines(header, *rows)
    rows = [",".join(line.split()) for line in partition]
    changed["celeba/list_eval_partition.csv"] = lines("image_id,partition", *rows)
    return changed


def utkface_files() -> Files:
    names = [f"{5 * n}_{n % 2}_{n % 5}_2017011{n:09}.jpg.chip.jpg" for n in range(COUNT)]
    return {f"utkface/UTKFace/{name}": image(n) for n, name in enumerate(names)}


def chest_files() -> Files:
    names = [f"{n:08}_000.png" for n in range(COUNT)]
    rows = [f"{name},{('Mass', 'No Finding')[n % 2]},0,{n},57,M" for n, name in enumerate(names)]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"
    return {
        **{f"chestxray14/images/{name}": image(n) for n, name in enumerate(names)},
        "chestxray14/Data_Entry_2017.csv": lines(header, *rows),
        "chestxray14/train_val_list.txt": lines(*names[:5]),
        "chestxray14/test_list.txt": lines(*names[5:]),
    }


def own_table() -> Files:
    rows = [f"{n:02}.png,{n % 2},{n * 0.5},{('train', 'test')[n > 5]}" for n in range(COUNT)]
    images = {f"images/{n:02}.png": image(n) for n in range(COUNT)}
    return {**images, "images/labels.csv": lines("image,a,b,split", *rows)}


DATASETS: Mapping[str, tuple[Dataset, Callable[[], Files]]] = {
    "celeba": (CelebA(size=10), celeba_files),
    "utkface": (UTKFace(size=10), utkface_files),
    "chestxray14": (ChestXray14(size=10), chest_files),
    "folder": (Folder(size=10), own_table),
    "celeba as CSV": (CelebA(size=10), lambda: celeba_tables_as_csv(celeba_files())),
}


def write_files(root: Path, files: Files) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def load(dataset: Dataset, root: Path, cache: Path) -> MultiTaskData:
    assert dataset.missing(root) is None
    return dataset.load(root, cache)


def content(data: MultiTaskData) -> list[list[tuple[bytes, ...]]]:
    """Return image and labels of every row of both splits, in their order."""
    return [
        [
            (
                split.images[row].numpy().tobytes(),
                *(split.targets[t.name][row].numpy().tobytes() for t in data.tasks),
            )
            for row in range(len(split))
        ]
        for split in (data.train, data.test)
    ]


def moved(old: str, new: str) -> Callable[[Files], Files]:
    return lambda files: {path.replace(old, new): content for path, content in files.items()}


def in_parts(path: str, number: int) -> str:
    """Return a path in one of three folders, or where it was, by turns."""
    part = ("", "part1/", "part2/", "crop_part3/")[number % 4]
    pure = PurePosixPath(path)
    return str(pure.parent / (part + pure.name))


def to_parts(files: Files) -> Files:
    return {in_parts(path, n): content for n, (path, content) in enumerate(files.items())}


def repeated(part: str) -> Callable[[Files], Files]:
    """Return a change that puts half of the images into another folder too."""
    return lambda files: (
        files | {path.replace("utkface/UTKFace", part): content for path, content in list(files.items())[::2]}
    )


def with_mark(*names: str) -> Callable[[Files], Files]:
    """Return a change that puts a byte-order mark before some files."""
    return lambda files: {
        path: BOM + content if path.endswith(names) else content for path, content in files.items()
    }


LAYOUTS: list[tuple[str, str, Callable[[Files], Files]]] = [
    ("celeba", "nested folder", moved("img_align_celeba/", "img_align_celeba/img_align_celeba/")),
    (
        "celeba",
        "PNG",
        lambda files: moved(".jpg", ".png")(files) | {p: files[p] for p in files if ".txt" in p},
    ),
    ("celeba", "folder of PNG", moved("img_align_celeba/", "img_align_celeba_png/")),
    ("celeba", "upper case", lambda files: {p.replace(".jpg", ".JPG"): c for p, c in files.items()}),
    ("celeba", "CSV", celeba_tables_as_csv),
    ("celeba", "CSV with a mark", lambda files: with_mark(".csv")(celeba_tables_as_csv(files))),
    ("celeba", "flat", moved("celeba/img_align_celeba/", "celeba/")),
    (
        "celeba",
        "as published",
        lambda files: moved("celeba/list", "celeba/Anno/list")(moved("/img", "/Img/img")(files)),
    ),
    ("celeba", "another name", moved("celeba/", "CelebA/")),
    (
        "celeba",
        "name on Kaggle",
        lambda files: {p.replace("celeba/", "celeba-dataset/", 1): c for p, c in files.items()},
    ),
    ("celeba", "in the data root", lambda files: {p.removeprefix("celeba/"): c for p, c in files.items()}),
    ("celeba", "one level too deep", lambda files: {f"celeba/{p}": c for p, c in files.items()}),
    ("celeba", "mark", with_mark(".txt")),
    ("utkface", "parts beside loose files", to_parts),
    ("utkface", "parts", moved("UTKFace/", "part2/")),
    ("utkface", "flat", moved("utkface/UTKFace/", "utkface/")),
    ("utkface", "in the data root", moved("utkface/", "")),
    (
        "utkface",
        "upper case",
        lambda files: {p.upper().replace("UTKFACE/", "utkface/", 1): c for p, c in files.items()},
    ),
    ("utkface", "PNG", moved(".jpg.chip.jpg", ".png")),
    ("utkface", "copies in a part beside", repeated("utkface/crop_part1")),
    ("utkface", "copies in a part below", repeated("utkface/UTKFace/crop_part1")),
    ("chestxray14", "parts", moved("/images/", "/images_003/images/")),
    ("chestxray14", "resized", moved("/images/", "/images-224/images-224/")),
    ("chestxray14", "flat", moved("/images/", "/")),
    ("chestxray14", "upper case", lambda files: {p.replace(".png", ".PNG"): c for p, c in files.items()}),
    ("chestxray14", "JPEG names", lambda files: {p.replace(".png", ".jpg"): c for p, c in files.items()}),
    ("chestxray14", "lists on Kaggle", moved("_list.txt", "_list_NIH.txt")),
    ("chestxray14", "official name", moved("chestxray14/", "CXR8/")),
    ("chestxray14", "marks", with_mark(".txt", ".csv")),
]


@pytest.mark.parametrize(
    ("name", "layout", "change"), LAYOUTS, ids=[f"{n}, {what}" for n, what, _ in LAYOUTS]
)
def test_layout_of_a_mirror_is_read_as_our_own(
    tmp_path: Path, name: str, layout: str, change: Callable[[Files], Files]
) -> None:
    dataset, make_files = DATASETS[name]
    write_files(tmp_path / "own", make_files())
    write_files(tmp_path / "other", change(make_files()))
    own = load(dataset, tmp_path / "own", tmp_path / "cache")
    other = load(dataset, tmp_path / "other", tmp_path / "cache")
    assert len(own.train) + len(own.test) == COUNT
    assert content(own) == content(other)
    assert bool(other.notes) == ("copies" in layout)


def test_data_root_may_be_the_datasets_own_folder(tmp_path: Path) -> None:
    for name in ("celeba", "utkface", "chestxray14"):
        dataset, make_files = DATASETS[name]
        write_files(tmp_path, make_files())
        assert dataset.missing(tmp_path / name) is None
    assert UTKFace().missing(tmp_path / "utkface" / "UTKFace") is None


def test_kinds_of_gaps_in_a_mirror_are_noted(tmp_path: Path) -> None:
    files = chest_files()
    first = next(iter(files))
    files[first.replace("/images/", "/images_001/images/")] = image(99)
    files["chestxray14/images/other.png"] = image(100)
    write_files(tmp_path, files)
    data = load(ChestXray14(size=10), tmp_path, tmp_path / "cache")
    assert data.notes == (
        "1 of 9 images are not in the lists",
        "1 further files have the name of another one and are not used",
    )


@pytest.mark.parametrize("name", ["celeba", "utkface"])
def test_images_that_are_not_aligned_are_refused(tmp_path: Path, name: str) -> None:
    dataset, make_files = DATASETS[name]
    files = {
        path: image(n, 30 + n, 20) if "_" in path and ".txt" not in path else content
        for n, (path, content) in enumerate(make_files().items())
    }
    write_files(tmp_path, files)
    with pytest.raises(
        BenchError, match=r"does not hold the aligned and cropped images: 8 of the first 8 have"
    ):
        load(dataset, tmp_path, tmp_path / "cache")


def test_one_image_of_another_shape_is_left_out(tmp_path: Path) -> None:
    files = utkface_files()
    files[next(iter(files))] = image(0, 30, 20)
    write_files(tmp_path, files)
    data = load(UTKFace(size=10), tmp_path, tmp_path / "cache")
    assert len(data.train) + len(data.test) == COUNT - 1
    assert "(30×20 px, not in the ratio 1:1)" in data.notes[0]


@pytest.mark.parametrize(
    ("dataset", "present", "archive", "command"),
    [
        (
            CelebA(),
            ["celeba/list_attr_celeba.txt"],
            "celeba/img_align_celeba.zip",
            "unzip -q {a} -d {root}/celeba",
        ),
        (
            CelebA(),
            ["celeba/a.txt"],
            "celeba/Img/img_align_celeba_png.7z.001",
            "7z x {a} -o{root}/celeba/Img",
        ),
        (CelebA(), [], "archive.zip", "unzip -q {a} -d {root}/celeba"),
        (UTKFace(), [], "UTKFace.tar.gz", "mkdir -p {root}/utkface && tar -xf {a} -C {root}/utkface"),
        (UTKFace(), ["utkface/a.txt"], "utkface/part1.tar.gz", "tar -xf {a} -C {root}/utkface"),
        (
            ChestXray14(),
            [*chest_files()][-3:],
            "chestxray14/images_001.tar.gz",
            "tar -xf {a} -C {root}/chestxray14",
        ),
        (CIFAR100(), [], "cifar-100-python.tar.gz", "tar -xf {a} -C {root}/cifar-100-python"),
        (NYUv2(), [], "nyuv2.rar", "unrar x {a} {root}/nyuv2/"),
        (NYUv2(), ["nyuv2/splits.mat"], "nyuv2/nyu_depth_v2_labeled.mat.gz", "gunzip -k {a}"),
    ],
)
def test_archive_is_named_with_the_command_that_extracts_it(
    tmp_path: Path, dataset: Dataset, present: list[str], archive: str, command: str
) -> None:
    write_files(tmp_path, dict.fromkeys([*present, archive], b""))
    problem = dataset.missing(tmp_path)
    assert problem is not None
    assert problem.startswith("there is no ")
    assert problem.endswith(command.format(a=tmp_path / archive, root=tmp_path))


def test_archives_beside_what_they_held_are_not_named(tmp_path: Path) -> None:
    write_files(tmp_path, celeba_files() | {"celeba/img_align_celeba.zip": b""})
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    problem = str(CelebA().missing(tmp_path))
    assert ".zip;" not in problem
    assert (
        "list_eval_partition.txt; pass --data-root with celeba/img_align_celeba/*.jpg (the aligned" in problem
    )
    assert problem.endswith(
        f"({tmp_path / 'celeba'} has img_align_celeba/, img_align_celeba.zip, list_attr_celeba.txt)"
    )


def test_folder_of_archives_without_images_names_them(tmp_path: Path) -> None:
    files = {path: content for path, content in chest_files().items() if "/images/" not in path}
    packed = {f"chestxray14/images/images_{n:03}.zip": b"" for n in range(1, 4)}
    write_files(tmp_path, files | packed)
    with pytest.raises(BenchError, match=r"there is .*images_001\.zip and 2 more; extract with: unzip -q .*"):
        load(ChestXray14(), tmp_path, tmp_path / "cache")


def test_commands_are_safe_for_a_shell(tmp_path: Path) -> None:
    archive = tmp_path / "my $(archive).zip"
    assert extraction_command(archive, tmp_path) == f"unzip -q '{archive}' -d {tmp_path}"


def test_other_data_sets_and_special_files_are_not_taken_for_one(tmp_path: Path) -> None:
    layout = FileLayout("some", ("some-set",), {"table": ("a.csv",), "images": ("img/",)}, "some/a.csv")
    write_files(
        tmp_path, {"other/a.csv": b"", "other/img/1.png": b"", "some_set/img": b"", "some_set/x/a.csv/b": b""}
    )
    assert str(layout.missing(tmp_path)).startswith(
        f"there is no {tmp_path}/some_set/a.csv; pass --data-root"
    )
    write_files(tmp_path, {"SOME-SET/x/A.CSV": b"", "SOME-SET/Img/1.png": b""})
    assert layout.find(tmp_path) == {
        "": tmp_path / "SOME-SET",
        "table": tmp_path / "SOME-SET/x/A.CSV",
        "images": tmp_path / "SOME-SET/Img",
    }


@pytest.mark.parametrize("name", ["list_eval_partition.csv", "list_attr_celeba.csv"])
def test_csv_without_a_header_loses_no_row(tmp_path: Path, name: str) -> None:
    files = celeba_tables_as_csv(celeba_files())
    table = files[f"celeba/{name}"]
    files[f"celeba/{name}"] = table[table.index(b"\n") + 1 :]
    write_files(tmp_path, files)
    if "attr" in name:
        with pytest.raises(
            BenchError, match="line 1: the names of the attributes are missing or not distinct"
        ):
            load(CelebA(size=10), tmp_path, tmp_path / "cache")
    else:
        data = load(CelebA(size=10), tmp_path, tmp_path / "cache")
        assert len(data.train) + len(data.test) == COUNT


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file that is cut, has other bits, other bytes at one place, other bytes only, or is UTF-16."""
    place = int(rng.integers(len(content)))
    odd = [b"\0", b'"', b",", b"\n", b"\xff", BOM, b"\r"][int(rng.integers(7))]
    flipped = bytearray(content)
    for position in rng.integers(0, len(content), 3):
        flipped[position] ^= 1 << int(rng.integers(8))
    return [
        content[:place],
        bytes(flipped),
        content[:place] + odd * 2 + content[place:],
        rng.bytes(len(content)),
        content.decode("latin-1").encode("utf-16"),
    ][int(rng.integers(5))]


@pytest.mark.parametrize("name", ["celeba", "celeba as CSV", "chestxray14", "folder"])
def test_damaged_table_is_read_or_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    dataset, make_files = DATASETS[name]
    files = make_files()
    write_files(tmp_path, files)
    rng = np.random.default_rng(0)
    messages = []
    for table in [path for path in files if path.endswith((".txt", ".csv"))]:
        for _ in range(10):
            (tmp_path / table).write_bytes(damage(files[table], rng))
            try:
                dataset.load(tmp_path, tmp_path / "cache")
            except BenchError as error:
                messages.append(str(error))
        (tmp_path / table).write_bytes(files[table])
    assert messages
    assert not any("\n" in message for message in messages)
    assert len(load(dataset, tmp_path, tmp_path / "cache").train)
