"""What README and docs say is so."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.catalog.table import CATALOG
from bench.engine.planning.suite_file import Suite, override_recipe
from bench.values import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_set_up_is_two_lines() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Set up\n")[2]
    first = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert first is not None
    lines = first.group(1).strip().splitlines()
    assert len(lines) == 2
    assert all("pip install -c constraints.txt" in line for line in lines)
    assert lines[0].endswith("bench run --suite smoke")
    assert lines[1].endswith("pytest")


def test_ci_runs_the_second_line() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in text
    assert "lines == 2" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_suite_example_is_a_suite() -> None:
    (text,) = blocks(ROOT / "docs" / "suites.md", "toml")
    suite = Suite.model_validate(tomllib.loads(text))
    assert override_recipe(Recipe(), suite.recipe) == Recipe()  # the page says that these are the defaults


def test_every_bundled_suite_is_described() -> None:
    from bench.suites import suite_names

    text = (ROOT / "docs" / "suites.md").read_text()
    for name in suite_names():
        assert f"| `{name}` |" in text


def test_changelog_names_every_part() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    for axis, parts in CATALOG.items():
        for name in parts:
            assert f"`{name}`" in text, f"{axis} {name}"


# The walk through a package of one's own

EXAMPLE = ROOT / "docs" / "adding-a-part.md"


def install(folder: Path, code: str) -> None:
    """Put the page's package into a folder as `pip install` would, with this code as its module."""
    project = tomllib.loads(blocks(EXAMPLE, "toml")[0])["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    points = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in named.items())
        for group, named in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(points))
    (folder / f"{name}.py").write_text(code, encoding="utf-8")


def bench(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the command line where what is in the folder is installed."""
    return subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", *map(str, arguments)],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    install(folder, blocks(EXAMPLE, "python")[0])
    return folder


def test_the_example_is_listed(package: Path) -> None:
    listed = bench(package, "list", "attack")
    assert listed.returncode == 0, listed.stderr
    (line,) = (line for line in listed.stdout.splitlines() if line.startswith("│ regions "))
    assert "Region noise: a grid of colors" in line
    assert "Sandoval-Segura et al." in line
    shown = bench(package, "show", "attack", "regions")
    assert re.search(r"^side +Annotated\[int, Ge\(1\)\] +4 +regions per side", shown.stdout, re.MULTILINE)


def test_the_example_passes_as_the_page_says(package: Path) -> None:
    done = bench(package, "conform", "regions")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(blocks(EXAMPLE, "text")[0])
    assert re.fullmatch(r"regions: all \d+ checks passed", done.stdout.splitlines()[-1])


def test_a_broken_example_fails_as_the_page_says(tmp_path: Path) -> None:
    code, fault = blocks(EXAMPLE, "python")
    first = "        channels = "
    assert code.count(first) == 1
    install(tmp_path, code.replace(first, fault + first))
    done = bench(tmp_path, "conform", "regions")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith("\n\n" + blocks(EXAMPLE, "text")[1])


def test_the_examples_suite_runs(package: Path, tmp_path: Path) -> None:
    suite, out = tmp_path / "regions.toml", tmp_path / "out"
    suite.write_text(blocks(EXAMPLE, "toml")[1])
    small = [
        f"--set={key}={value}"
        for key, value in {
            "recipe.epochs": 1,
            "params.dataset.digits.train": 64,
            "params.dataset.digits.test": 32,
            "params.backbone.small.width": 2,
            "matrix.defense": '["none"]',
        }.items()
    ]
    inline = ("--executor", "inline", "--device", "cpu", "--no-track")
    done = bench(package, "run", "--suite", suite, "--out", out, *small, *inline)
    assert done.returncode == 0, done.stderr
    assert "cells: 4 done, 0 cached, 0 failed" in done.stderr
    assert "regions(side=2)" in done.stdout
