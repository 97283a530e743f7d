"""``bench data``: what its commands print, refuse and write."""

import logging
import re
from pathlib import Path

import pytest

from bench.catalog.build import build_part
from tests.dataset_report.examples import DIGITS, FOLDER, Bench


def test_what_the_report_says_is_not_logged_too_and_later_warnings_are(
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


def test_a_page_that_cannot_be_written_is_named(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("data", "show", DIGITS, "-o", tmp_path)
    assert code == 2
    assert err.startswith(f"error: cannot write {tmp_path}: ")
