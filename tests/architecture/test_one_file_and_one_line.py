"""A new part is its file and one line of the catalog: no test, count, list or golden file is edited."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_adding_a_part import MODULES, PROJECTS, ROOT

FOLDERS = {
    "attack": "baselines",
    "weighting": "bench/weightings",
    "defense": "bench/defenses",
    "backbone": "bench/backbones",
    "dataset": "bench/datasets",
    "regime": "bench/regimes",
}

TESTS = (
    "tests/test_catalog.py",
    "tests/contract/test_parts.py",
    "tests/docs/test_docs.py",
    "tests/engine/planning/test_suite.py",
    "tests/golden/test_help.py",
    "tests/golden/test_keys.py",
)
"""The quick ones of the tests that look at the whole catalog."""

PLAIN = "--import-mode=importlib -q"
"""Options of pytest: one process, and no checks of shapes, which the tests themselves are run with."""


def add_part(tree: Path, axis: str, name: str, target: str) -> None:
    """Write a part's file and its line of the catalog."""
    module, _, kind = target.partition(":")
    (tree / FOLDERS[axis] / f"{module}.py").write_text(MODULES[f"{module}.py"], encoding="utf-8")
    table = tree / "bench" / "catalog" / "parts.py"
    head = f'    "{axis}": {{\n'
    before, found, after = table.read_text(encoding="utf-8").partition(head)
    assert found
    line = f'        "{name}": "{FOLDERS[axis].replace("/", ".")}.{module}:{kind}",\n'
    rest = after.replace("    },\n", f"{line}    }},\n", 1)
    table.write_text(before + head + rest, encoding="utf-8")


@pytest.mark.slow
def test_a_new_part_of_every_axis_needs_no_other_edit(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".*", "runs", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=lambda folder, names: {*ignored(folder, names)} - {".ci"})
    for project in PROJECTS:
        for group, points in project["entry-points"].items():
            for name, target in points.items():
                add_part(tree, group.removeprefix("mtlue_bench."), name, target)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", f"addopts={PLAIN}", *TESTS],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
