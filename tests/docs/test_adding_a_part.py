"""The worked examples of docs/adding-a-part.md: installed as packages, they are listed, checked and run."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.catalog.parts import CATALOG

ROOT = Path(__file__).resolve().parents[2]

PAGE = (ROOT / "docs" / "adding-a-part.md").read_text(encoding="utf-8")

FILES = re.findall(r"`([\w.-]+)`[^\n]*:\n\n```(?:python|toml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
"""Name and text of every file that the page shows."""

MODULES = {name: text for name, text in FILES if name.endswith(".py")}

PROJECTS = [tomllib.loads(text)["project"] for name, text in FILES if name == "pyproject.toml"]

TEXTS = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

PARTS = [
    (group.removeprefix("mtlue_bench."), name)
    for project in PROJECTS
    for group, points in project["entry-points"].items()
    for name in points
]
"""Axis and name of every example."""


def install(folder: Path, modules: dict[str, str]) -> None:
    """Put the page's packages into a folder as `pip install` would."""
    for project in PROJECTS:
        about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        groups = [
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in project["entry-points"].items()
        ]
        (about / "entry_points.txt").write_text("\n".join(groups))
    for name, text in modules.items():
        (folder / name).write_text(text, encoding="utf-8")


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
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    install(folder, MODULES)
    return folder


def test_the_page_has_an_example_of_every_axis() -> None:
    assert {axis for axis, _ in PARTS} == set(CATALOG)
    modules = {
        target.partition(":")[0]
        for project in PROJECTS
        for points in project["entry-points"].values()
        for target in points.values()
    }
    assert {f"{module}.py" for module in modules} == set(MODULES)


def test_the_examples_are_listed(packages: Path) -> None:
    listed = bench(packages, "list")
    assert listed.returncode == 0, listed.stderr
    for _, name in PARTS:
        assert re.search(rf"^\| {name} ", listed.stdout, re.MULTILINE), name
    (line,) = (line for line in listed.stdout.splitlines() if line.startswith("| regions "))
    assert "Region noise: a grid of colors" in line
    assert "Sandoval-Segura et al." in line
    shown = bench(packages, "show", "attack", "regions")
    assert re.search(r"^side +Annotated\[int, Ge\(1\)\] +4 +regions per side", shown.stdout, re.MULTILINE)


def test_the_attack_passes_as_the_page_says(packages: Path) -> None:
    done = bench(packages, "conform", "regions")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(TEXTS[0])
    assert re.fullmatch(r"regions: all \d+ checks passed", done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("axis", "name"), [part for part in PARTS if part[0] != "attack"])
def test_a_part_of_another_axis_passes(axis: str, name: str, packages: Path) -> None:
    done = bench(packages, "conform", axis, name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(rf"{name}: all \d+ checks passed", done.stdout.splitlines()[-1])
    assert f"bench conform {axis} {name}\n" in PAGE


def test_a_broken_attack_fails_as_the_page_says(tmp_path: Path) -> None:
    (fault,) = re.findall(r"^```python\n( .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    first, code = "        channels = ", MODULES["region_noise.py"]
    assert code.count(first) == 1
    install(tmp_path, {**MODULES, "region_noise.py": code.replace(first, fault + first)})
    done = bench(tmp_path, "conform", "regions")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith("\n\n" + TEXTS[1])


@pytest.mark.parametrize(
    ("suite", "settings", "cells", "shown"),
    [
        (
            "regions.toml",
            {
                "params.dataset.digits.train": "64",
                "params.dataset.digits.test": "32",
                "params.backbone.small.width": "2",
                "matrix.defense": '["none"]',
            },
            4,
            "regions(side=2)",
        ),
        (
            "more-parts.toml",
            {"params.dataset.stripes.train": "64", "params.dataset.stripes.test": "32"},
            24,
            "gamma(gamma=0.5)+jpeg",
        ),
    ],
)
def test_the_suites_run(
    suite: str, settings: dict[str, str], cells: int, shown: str, packages: Path, tmp_path: Path
) -> None:
    (tmp_path / suite).write_text(dict(FILES)[suite], encoding="utf-8")
    small = [f"--set={key}={value}" for key, value in {"recipe.epochs": "1", **settings}.items()]
    inline = ("--executor", "inline", "--device", "cpu", "--no-track")
    done = bench(packages, "run", "--suite", tmp_path / suite, "--out", tmp_path / "out", *small, *inline)
    assert done.returncode == 0, done.stderr
    assert f"cells: {cells} done, 0 cached, 0 failed" in done.stderr
    assert shown in done.stdout
