"""The screens of docs/reports.md are what the commands print.

After a change: ``MTLUE_UPDATE_GOLDEN=1 pytest tests/docs/test_screens.py``.
"""

import io
import os
import re
from pathlib import Path

from rich.console import Console

from bench.record_archive import read_archive
from leaderboard.summary import rank_records, summarize_board
from leaderboard.terminal_board import print_board

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reports.md"
SCREEN = re.compile(r"^<!-- ([a-z0-9-]+): (\d+) columns -->\n\n```text\n(?:.*\n)*?```\n", re.MULTILINE)


def test_screens_are_those_of_the_records() -> None:
    def draw(found: re.Match[str]) -> str:
        suite, width = found[1], int(found[2])
        archive = Path("leaderboard", "results", f"{suite}.jsonl.gz")
        summary = summarize_board(rank_records(read_archive(ROOT / archive)))
        file = io.StringIO()
        views = {"full board": f"bench report --out {archive} --format markdown"}
        print_board(summary, Console(file=file, width=width), views)
        return f"<!-- {suite}: {width} columns -->\n\n```text\n{file.getvalue()}```\n"

    text = PAGE.read_text()
    made, count = SCREEN.subn(draw, text)
    if os.environ.get("MTLUE_UPDATE_GOLDEN"):
        PAGE.write_text(made)
    assert count == 2
    assert PAGE.read_text() == made
