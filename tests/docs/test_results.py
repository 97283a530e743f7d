"""The tables of docs/results.md are those of the records in leaderboard/results.

A comment in front of a table says where it is from: ``<!-- SUITE: HEADING -->`` is the first table under a
heading of the board of ``leaderboard/results/SUITE.jsonl.gz``, ``<!-- SUITE: compare A B -->`` the table of a
comparison. After new records: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/docs/test_results.py``.
"""

import os
import re
from functools import cache
from pathlib import Path

import pytest

from bench.record_archive import read_archive
from leaderboard.board import render_board
from leaderboard.comparison import compare_labels, render_comparison
from leaderboard.frame import to_frame

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in (ROOT / "README.md", ROOT / "docs" / "results.md") if "<!-- " in page.read_text()]
TABLE = re.compile(r"^<!-- ([a-z0-9-]+): (.+?) -->\n\n((?:\|.*\n)+)", re.MULTILINE)


def archive_of(suite: str) -> Path:
    return ROOT / "leaderboard" / "results" / f"{suite}.jsonl.gz"


@cache
def board(suite: str) -> str:
    return render_board(read_archive(archive_of(suite)))


def first_table(text: str, place: str) -> str:
    found = re.search(r"^\|(?:.*\n\|)*.*\n", text, re.MULTILINE)
    assert found is not None, f"there is no table at {place}"
    return found[0]


def table(suite: str, place: str) -> str:
    """Return the table that a comment asks for."""
    if place.startswith("compare "):
        frame = to_frame(read_archive(archive_of(suite)))
        return first_table(render_comparison(compare_labels(frame, *place.split()[1:3])), place)
    parts = re.split(r"^#+ (.*)\n", board(suite), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert place in sections, f"the board of {suite} has no heading {place!r}, but {sorted(sections)}"
    return first_table(sections[place], place)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page: Path) -> None:
    text = page.read_text()
    made = TABLE.sub(lambda found: f"<!-- {found[1]}: {found[2]} -->\n\n{table(found[1], found[2])}", text)
    if os.environ.get("MTLUE_UPDATE_GOLDEN"):
        page.write_text(made)
    assert page.read_text() == made


def test_every_archive_is_shown() -> None:
    shown = {found[1] for page in PAGES for found in TABLE.finditer(page.read_text())}
    assert shown == {path.name.removesuffix(".jsonl.gz") for path in archive_of("x").parent.glob("*.gz")}
