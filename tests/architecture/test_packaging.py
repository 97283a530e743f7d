"""What the built package says of itself."""

import re
import subprocess
import tomllib
from pathlib import Path

import bench

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_typed() -> None:
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").is_file(), package


def test_the_citation_names_the_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", text, re.MULTILINE)[1] == bench.__version__  # type: ignore[index]


def test_files_of_the_page_are_in_the_wheel() -> None:
    """The wheel takes all files of its packages that git does not ignore."""
    from leaderboard.page.build import ASSETS

    names = [
        *ASSETS,
        *(f"templates/{name}.html" for name in ("base", "index", "attack", "cells", "cell", "macros")),
    ]
    ignored = subprocess.run(
        ["git", "check-ignore", *(f"leaderboard/page/{name}" for name in names)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ignored.stdout == ""
    assert all((ROOT / "leaderboard" / "page" / name).is_file() for name in names)
    build = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build.keys() == {"packages"}, "a new rule could leave files out"
