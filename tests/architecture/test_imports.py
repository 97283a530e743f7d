"""Imports flow one way."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_contracts_are_kept() -> None:
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


CHECKED = ROOT / "bench" / "datasets" / "cifar.py"
"""Reads published pickles whose checksums are known, and nothing but arrays out of them."""


def test_nothing_is_unpickled() -> None:
    for package in ("bench", "baselines", "mtlue", "leaderboard"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for word in ("import pickle", "torch.load", "read_pickle", "allow_pickle=True"):
                assert word not in text or path == CHECKED, f"{path}: {word}"
