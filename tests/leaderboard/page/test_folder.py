"""A page is written without touching what somebody else has put into its folder."""

from pathlib import Path

import pytest

from bench.errors import BenchError
from leaderboard.page.folder import MARKER, encode_marker, write_page


def make_page(**files: bytes) -> dict[str, bytes]:
    page = {name.replace("_", "."): content for name, content in files.items()}
    return page | {MARKER: encode_marker(page)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARKER}


def test_an_older_page_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "page"
    write_page(folder, make_page(index_html=b"1", old_html=b"1"))
    (folder / "note.txt").write_bytes(b"mine")
    write_page(folder, make_page(index_html=b"2"))
    assert contents(folder) == {"index.html": b"2", "note.txt": b"mine"}
    assert (folder / MARKER).read_bytes() == encode_marker(["index.html"])


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"mine")
    with pytest.raises(BenchError, match="has files but no page"):
        write_page(tmp_path, make_page(index_html=b"1"))
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"mine")
    with pytest.raises(BenchError, match="page has files but no page"):
        write_page(tmp_path / "page", make_page(index_html=b"1"))


def test_a_file_of_somebody_else_in_a_page_is_not_replaced(tmp_path: Path) -> None:
    write_page(tmp_path / "page", make_page(index_html=b"1"))
    (tmp_path / "page" / "new.html").write_bytes(b"mine")
    with pytest.raises(BenchError, match=r"new\.html is in the way"):
        write_page(tmp_path / "page", make_page(index_html=b"2", new_html=b"2"))
    assert contents(tmp_path / "page") == {"index.html": b"1", "new.html": b"mine"}


def test_a_marker_cannot_remove_files_outside(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / MARKER).write_text(f"../mine\n{tmp_path}/mine\n")
    write_page(folder, make_page(index_html=b"1"))
    assert (tmp_path / "mine").read_bytes() == b"mine"
