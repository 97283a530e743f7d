"""The page of a dataset: what it shows, and what it never lets through."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import MultiTaskData
from bench.catalog.build import build_part
from bench.catalog.description import PartDescription
from bench.dataset_report.html import render_page
from bench.dataset_report.statistics import compute_statistics
from bench.tasks.classification import Classification
from bench.values import MISSING, Split
from tests.dataset_report.examples import DIGITS, FOLDER, HOSTILE, Bench, classified, dense, split

ABOUT = PartDescription("What it is.", "", "", ())


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
