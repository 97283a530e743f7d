"""Take the picture of the web page in the README: the top of the page of an archive, in a real browser.

Usage: python docs/page_picture.py ARCHIVE PICTURE; `nox -s picture` takes it as well.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from bench.record_archive import read_archive
from leaderboard.page.build import render_web_page
from leaderboard.page.folder import write_page
from leaderboard.summary import rank_records

SIZE = {"width": 1000, "height": 864}
"""What is seen of the page, in pixels."""


def take_picture(archive: Path, picture: Path, browser: str | None) -> None:
    """Write the picture of an archive's page as PNG.

    Args:
        archive: of records.
        picture: the file to write.
        browser: program of a Chromium; None: the one that playwright has installed.
    """
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        write_page(Path(folder), render_web_page(rank_records(read_archive(archive))))
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport=SIZE)
        tab.goto(f"file://{folder}/index.html")
        tab.screenshot(path=str(picture))
        chromium.close()


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
