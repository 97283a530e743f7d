"""What a shell completes, asked as a shell asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.catalog.parts import catalog_axes, catalog_entries
from bench.suites import suite_names
from tests.cli.test_cli import MODULES, ok

ROOT = Path(__file__).resolve().parents[2]


def shell_variables(words: list[str]) -> dict[str, str]:
    """Return the variables with which bash asks for the completion of the last word."""
    return {
        "_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["bench", *words]),
        "COMP_CWORD": str(len(words)),
    }


def complete(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Return what the last word can be completed to."""
    for name, value in shell_variables([*words]).items():
        monkeypatch.setenv(name, value)
    return ok().split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["expl"], ["explain"]),
        (["wh"], []),  # a hidden command
        (["run", "--sui"], ["--suite"]),
        (["run", "--suite", "smo"], ["smoke"]),
        (["plan", "--suite", "nowhere"], []),
        (["run", "--executor", "pro"], ["processes"]),
        (["run", "--only", "att"], ["attack="]),
        (["run", "--only", "attack=mtl-ue-e"], ["attack=mtl-ue-em"]),
        (["run", "--only", "attack=em,cud"], ["attack=em,cuda"]),
        (["run", "--only", "nothing=e"], []),
        (["list", "su"], ["suite"]),
        (["list", "def"], ["defense"]),
        (["show", "back"], ["backbone"]),
        (["show", "suite"], ["suite-schema"]),
        (["show", "attack", "mtl-ue-s"], ["mtl-ue-sep"]),
        (["show", "defense", "jpeg+gray"], ["jpeg+grayscale"]),
        (["show", "nothing", ""], []),
        (["compare", "mtl-ue-e"], ["mtl-ue-em"]),
        (["compare", "em", "mtl-ue-e"], ["mtl-ue-em"]),
        (["compare", "--axis", "weighting", "ew", "mgd"], ["mgda"]),
        (["compare", "--axis", "wei"], ["weighting"]),
        (["data", "check", "utk"], ["utkface"]),
    ],
)
def test_completion(monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]) -> None:
    assert complete(monkeypatch, *words) == expected


@pytest.mark.parametrize("axis", catalog_axes())
def test_every_part_is_completed(monkeypatch: pytest.MonkeyPatch, axis: str) -> None:
    assert complete(monkeypatch, "show", axis, "") == sorted(catalog_entries(axis))


def test_every_suite_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(monkeypatch, "run", "--suite", "") == suite_names()


@pytest.mark.parametrize(
    "words", [["show", "attack", "mtl"], ["run", "--suite", "smo"], ["data", "show", "u"]]
)
def test_completion_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MODULES],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **shell_variables(words)},
    )
    assert done.stdout
    assert done.stderr == "imported:\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_BENCH_COMPLETE", f"source_{shell}")
    assert "_BENCH_COMPLETE=complete_" in ok()
