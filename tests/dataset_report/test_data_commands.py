"""``bench data``: what it counts, what it refuses, what its page shows and never lets through."""

import io
import logging
import math
import re
import sys
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import cli
from bench.api import MultiTaskData, Task
from bench.catalog.build import build_part
from bench.catalog.description import PartDescription
from bench.dataset_report.html import render_page
from bench.dataset_report.statistics import compute_statistics, count_leaks
from bench.dataset_report.text import render_text
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.values import MISSING, Augmentation, Split

HOSTILE = "<script>alert('x')</script>"
DIGITS = "digits(test=20, train=60)"
ABOUT = PartDescription("What it is.", "", "", ())

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """Run the command line as its entry point does; return its exit code and what it printed."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MTLUE_CACHE", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        out, err = capsys.readouterr()
        return code if isinstance(code, int) else 0, out, err

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a folder of 12 images, the last a copy of the first and in the other split."""
    folder = tmp_path / "root" / "images"
    folder.mkdir(parents=True)
    lines = ["image,kind,grade,split", f"{HOSTILE.replace('/', '')}.png,{HOSTILE},1,train"]
    rng = np.random.default_rng(0)
    for row in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        kind, grade = HOSTILE if row % 3 == 0 else "b&b", "" if row == 2 else row % 4
        lines.append(f"{row}.png,{kind},{grade},{'train' if row < 8 else 'test'}")
    (folder / "11.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "root"


FOLDER = "folder(size=16)"


def split(count: int = 6, **targets: torch.Tensor) -> Split:
    images = torch.arange(count * 3 * 4 * 5, dtype=torch.uint8).reshape(count, 3, 4, 5)
    return Split(images, targets)


def classified(*labels: int, classes: int = 3) -> MultiTaskData:
    """Return six training and six test images of one task, the test images labeled like this."""
    task = Classification("kind", tuple("abcdef"[:classes]))
    train = split(kind=torch.tensor([0, 1, 2, 0, 1, 2]) % classes)
    test = split(kind=torch.tensor(labels))
    return MultiTaskData((task,), train, Split(255 - test.images, test.targets))


def dense(derived: bool = False) -> MultiTaskData:
    """Return six images with half of the pixels labeled."""
    half = torch.zeros(6, 4, 5, dtype=torch.bool)
    half[:, :2] = True
    labels = torch.where(half, 1, MISSING).to(torch.int8)
    labels[0, 0, 0] = 2
    depth = torch.where(half, 2.0, math.nan)[:, None]
    depth[0, 0, 0, 0] = 9.0
    normals = torch.where(half[:, None], torch.tensor([0.0, 0.0, -1.0])[:, None, None], math.nan)
    tasks: tuple[Task, ...] = (
        Segmentation("what", ("wall", "<floor>", "chair")),
        Depth("far"),
        Normals("lean", derived),
    )
    both = split(what=labels, far=depth, lean=normals)
    return MultiTaskData(tasks, both, both, Augmentation(flip=True), ("a note",))


# -- check ------------------------------------------------------------------------------------------------


def test_what_the_sheet_says_is_not_logged_too_and_later_warnings_are(
    bench: Bench, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code, _, _ = bench("data", "check", FOLDER, "--data-root", root)
    assert code == 0
    assert not caplog.messages
    logging.getLogger("bench").warning("later")
    assert caplog.messages == ["later"]


def test_check_counts_what_is_there(bench: Bench) -> None:
    code, out, err = bench("data", "check", DIGITS)
    assert (code, err) == (0, "")
    data = build_part("dataset", DIGITS).load(None, Path("nowhere"))
    lines = [line.split() for line in out.splitlines()]
    for place, label in enumerate(data.train.targets["left"].bincount(minlength=10).tolist()):
        test = int((data.test.targets["left"] == place).sum())
        row = [str(place), str(label), f"{label / 0.6:.1f}", str(test), f"{test / 0.2:.1f}"]
        assert row in lines
    odd = int(data.train.targets["sum-odd"].sum())
    assert any(line[:4] == ["sum-odd", "odd", str(odd), f"{odd / 0.6:.1f}"] for line in lines)
    assert out.startswith(f"{DIGITS}\n")
    assert re.search(r"training images: +60\n", out)
    assert re.search(r"height × width: +32×32 px\n", out)
    assert "leak" not in out


def test_check_finds_leaks_missing_labels_and_notes(bench: Bench, root: Path) -> None:
    code, out, _ = bench("data", "check", FOLDER, "--data-root", root)
    assert code == 0
    assert re.search(r"test images also in training split: +1\n", out)
    assert "note: leak: 1 of 4 test images are pixel-identical to a training image" in out
    assert re.search(r"without label +1 +\(12\.5\) +0 +\(0\.0\)", out)
    assert re.search(r"note: skipped 1 of 13 files: .*\(no such file\)", out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown dataset 'digit'; did you mean 'digits'?"),
        ("digits(side=3)", "unknown parameter of dataset 'digits': 'side'"),
        ("folder(path=other)", r"there is no .*other/labels\.csv"),
        ("folder(", "cannot read"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(bench: Bench, root: Path, name: str, message: str) -> None:
    for command in (("check",), ("prepare",), ("show", "-o", root / "page.html")):
        code, out, err = bench("data", *command, name, "--data-root", root)
        assert (code, out) == (2, "")
        assert re.match(f"error: .*{message}", err)
        assert err.count("\n") == 1
    assert not (root / "page.html").exists()


def test_a_data_root_that_is_not_there_is_named(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("data", "check", "digits", "--data-root", tmp_path / "none")
    assert (code, err) == (2, f"error: there is no data root {tmp_path / 'none'}\n")


@pytest.mark.parametrize(
    ("labels", "remark"),
    [
        ([0, 1, 1, 0, 1, 0], "not in the test split: 'c'; balanced accuracy and AUROC are means over"),
        ([1] * 6, "not in the test split: 'a', 'c'; AUROC is undefined"),
        ([-1] * 6, "the test split has no label, so every score is undefined"),
    ],
)
def test_undefined_scores_are_said(labels: list[int], remark: str) -> None:
    statistics = compute_statistics("some", classified(*labels))
    (sentence,) = statistics.tasks[0].remarks
    assert sentence.startswith(remark)
    assert f"note: kind: {remark}" in render_text(statistics)


def test_floors_are_none_where_undefined() -> None:
    data = classified(1, 1, 1, 1, 1, 1, classes=2)
    assert compute_statistics("some", data).tasks[0].floor == {"accuracy": 0.0, "balanced_accuracy": 1.0}
    xray = replace(data, tasks=(Classification("kind", ("a", "b"), headline="auroc"),))
    assert compute_statistics("some", xray).tasks[0].floor == {"auroc": None}
    assert "AUROC undefined" in render_text(compute_statistics("some", xray))
    empty = classified(*[-1] * 6)
    assert set(compute_statistics("some", empty).tasks[0].floor.values()) == {None}


def test_dense_tasks_are_counted_by_pixels() -> None:
    what, far, lean = compute_statistics("some", dense(derived=True)).tasks
    assert (what.train.per_class, what.train.missing) == ((0, 59, 1), 60)
    assert what.train.missing_share == 0.5
    assert what.unit == "pixels"
    assert any("not in the training split: 'wall'" in remark for remark in what.remarks)
    assert far.train.per_class == (0, 59, 0, 0, 0, 0, 0, 1)
    assert far.quantiles["train"] == pytest.approx((2, 2, 2, 2, 9), abs=0.011)
    assert lean.train.per_class == (*[0] * 8, 60)
    assert "derived from depth, not measured" in lean.details
    assert "derived" not in " ".join(compute_statistics("some", dense()).tasks[2].details)


def spoil(data: MultiTaskData, task: str, change: Callable[[torch.Tensor], torch.Tensor]) -> MultiTaskData:
    """Return the data with one target of the test split changed."""
    targets = {**data.test.targets, task: change(data.test.targets[task].clone())}
    return replace(data, test=Split(data.test.images, targets))


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(target: torch.Tensor) -> torch.Tensor:
        target.view(-1)[0] = value
        return target

    return change


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("what", first(3), "the test targets of task 'what' have a label 3, but the 3 classes are numbered"),
        ("what", first(-2), "have a label -2"),
        ("what", lambda target: target[:5], "are 5 for 6 images"),
        ("what", lambda target: target[:, :3], r"are int8 \[6, 3, 5\], not integers \[6, 4, 5\]"),
        ("what", lambda target: target.float(), "are float32"),
        ("far", first(11), "have a distance of 11 m, outside 0-10 m"),
        ("far", first(math.inf), "have a distance of inf m"),
        ("far", lambda target: target[:, 0], r"not floats \[6, 1, 4, 5\]"),
        ("lean", lambda target: target * 2, "have a normal of length 2"),
        ("lean", first(math.nan), "have normals of which only a part is missing"),
    ],
)
def test_unsound_targets_are_named(
    task: str, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    with pytest.raises(BenchError, match=message) as raised:
        compute_statistics("some", spoil(dense(), task, change))
    assert str(raised.value).startswith(f"dataset 'some': the test targets of task {task!r} ")


def test_unsound_splits_are_named() -> None:
    data = classified(0, 1, 2, 0, 1, 2)
    floats = Split(data.test.images, data.test.targets)
    object.__setattr__(floats, "images", data.test.images.float())  # what the constructor refuses in tests
    for test, message in [
        (
            Split(data.test.images[:0], {"kind": torch.zeros(0, dtype=torch.long)}),
            "the test split has no image",
        ),
        (floats, "are float32"),
        (Split(data.test.images, {}), r"has targets for \[\], not \['kind'\]"),
        (Split(data.test.images[:, :, :3], data.test.targets), "have different shapes"),
    ]:
        with pytest.raises(BenchError, match=message):
            compute_statistics("some", replace(data, test=test))


def test_leaks_are_counted_by_pixels() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    test = images[[0, 0, 1]].clone()
    test[2, 0, 0, 0] ^= 1
    assert count_leaks(images, test) == 2
    assert count_leaks(images, 255 - images) == 0


# -- prepare ----------------------------------------------------------------------------------------------


def test_prepare_decodes_once(bench: Bench, root: Path, tmp_path: Path) -> None:
    printed = [
        bench("data", "prepare", FOLDER, "--data-root", root, "--cache", tmp_path / "c")[1] for _ in "12"
    ]
    (made,) = (tmp_path / "c").iterdir()
    size = (12 * 3 * 16 * 16 + 12 * 2 * 8) / 1e6
    assert printed[0].startswith(f"{FOLDER}: 12 images, {size:.1f} MB with their labels; written to {made} (")
    assert "; nothing was left to decode (" in printed[1]
    assert (made / "images.npy").is_file()


def test_cache_is_where_it_is_said_to_be(
    bench: Bench, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench("data", "check", FOLDER, "--data-root", root)
    assert list((tmp_path / "home" / "mtlue-bench").glob("folder-*"))
    monkeypatch.setenv("MTLUE_CACHE", str(tmp_path / "variable"))
    bench("data", "check", FOLDER, "--data-root", root)
    assert list((tmp_path / "variable").glob("folder-*"))
    bench("data", "check", FOLDER, "--data-root", root, "--cache", tmp_path / "option")
    assert list((tmp_path / "option").glob("folder-*"))


# -- show -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser sees of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def read_picture(source: str | None) -> np.ndarray:  # type: ignore[type-arg]
    head, _, content = str(source).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(b64decode(content))) as image:
        return np.array(image)


def test_page_escapes_every_name(bench: Bench, root: Path, tmp_path: Path) -> None:
    code, out, _ = bench("data", "show", FOLDER, "--data-root", root, "-o", tmp_path / "page.html")
    assert (code, out) == (0, f"wrote {tmp_path / 'page.html'}\n")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert HOSTILE in page.words
    assert "b&b" in page.words
    assert any("skipped 1 of 13 files" in words and "<script>" in words for words in page.words)
    assert any(HOSTILE in str(image["alt"]) for image in page.images)


def test_page_needs_nothing_from_outside(bench: Bench, tmp_path: Path) -> None:
    bench("data", "show", DIGITS, "-o", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.images) == 48
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in "".join(page.words)


def test_page_shows_training_images_with_their_labels(bench: Bench, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        bench("data", "show", DIGITS, "-o", tmp_path / "page.html")
        texts.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    data = build_part("dataset", DIGITS).load(None, tmp_path)
    rows = []
    for image in Page(texts[0]).images:
        match = re.fullmatch(r"training image (\d+): left (\d), right (\d), larger .*", str(image["alt"]))
        assert match
        row, left, right = map(int, match.groups())
        assert (data.train.targets["left"][row], data.train.targets["right"][row]) == (left, right)
        assert np.array_equal(read_picture(image["src"]), data.train.images[row].permute(1, 2, 0).numpy())
        rows.append(row)
    assert rows == sorted(set(rows))


def test_missing_labels_are_dashes(bench: Bench, root: Path, tmp_path: Path) -> None:
    bench("data", "show", FOLDER, "--data-root", root, "-o", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.words.count("–") == 1
    assert sum("grade –" in str(image["alt"]) for image in page.images) == 1


def test_many_tasks_are_told_by_the_names_that_apply() -> None:
    names = [f"task{number}" for number in range(8)]
    targets = {name: torch.zeros(1, dtype=torch.long) for name in names}
    targets |= {"task3": torch.ones(1, dtype=torch.long), "task5": torch.tensor([MISSING])}
    one = split(1, **targets)
    data = MultiTaskData(tuple(Classification(name, ("no", "yes")) for name in names), one, one)
    text = render_page(compute_statistics("some", data), data, ABOUT)
    tags = re.findall(r"<li[^>]*>(.*)</li>", text)
    assert tags == ["task3", "task5 –"]
    none = replace(data, train=Split(one.images, dict.fromkeys(names, torch.zeros(1, dtype=torch.long))))
    assert '<li class="none">none of 8</li>' in render_page(compute_statistics("some", none), none, ABOUT)


def test_maps_are_shown_in_colors() -> None:
    data = dense()
    text = render_page(compute_statistics("some", data), data, ABOUT)
    page = Page(text)
    assert len(page.images) == 6 * 4
    assert [image["alt"] for image in page.images[:4]] == [
        "training image 0",
        "what of training image 0",
        "far of training image 0",
        "lean of training image 0",
    ]
    _, what, far, lean = (read_picture(image["src"]) for image in page.images[:4])
    nothing = [226, 229, 234]
    for drawn in (what, far, lean):
        assert drawn.shape == (4, 5, 3)
        assert (drawn[2:] == nothing).all()
    assert len(np.unique(what[:2].reshape(-1, 3), axis=0)) == 2
    assert f"#{what[0, 0].tobytes().hex()}" in text  # the legend's color
    assert far[0, 0].tolist() == [253, 231, 36]  # the far end of viridis
    assert lean[0, 0].tolist() == [128, 128, 255]  # facing the camera
    assert "<floor>" in page.words
    assert "<floor>" not in text


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_any_channels_are_shown(channels: int) -> None:
    data = classified(0, 1, 2, 0, 1, 2)
    data = replace(
        data,
        train=Split(data.train.images[:, :channels], data.train.targets),
        test=Split(data.test.images[:, :channels], data.test.targets),
    )
    page = Page(render_page(compute_statistics("some", data), data, ABOUT))
    assert read_picture(page.images[0]["src"]).shape == ((4, 5, 3) if channels == 3 else (4, 5))


def test_a_page_that_cannot_be_written_is_named(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("data", "show", DIGITS, "-o", tmp_path)
    assert code == 2
    assert err.startswith(f"error: cannot write {tmp_path}: ")
