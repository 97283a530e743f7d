"""One name has one meaning, names say what they name, modules are short."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "mtlue", "baselines", "leaderboard")

SHARED_NAMES = {
    "trains_every_parameter": "the same check, of a backbone and of a weighting",
}
"""Name that two modules may define → why it means the same in both."""

RETIRED_WORDS = (
    *("Errand", "Elsewhere", "bookmark", "Standing", "datasheet", "datapage", "roomy"),
    *("quantise", "labelled", "colour", "grey", "centre", "normalise", "minimise"),
)
"""Words that had several meanings, or have an American spelling, which is used instead."""

WORDS_PER_FUNCTION = 1.75
"""Least mean number of words in the name of a function: one word rarely says what is returned."""

LONGEST_MODULE = 350
"""Most lines of a module."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_no_two_modules_define_the_same_name() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name].append(str(path))
    twice = {name: places for name, places in defined.items() if len(places) > 1}
    assert twice.keys() <= SHARED_NAMES.keys(), {
        name: places for name, places in twice.items() if name not in SHARED_NAMES
    }
    assert SHARED_NAMES.keys() <= twice.keys(), "a shared name that is not shared any more"


def test_names_of_functions_have_enough_words() -> None:
    counts = [
        len([word for word in node.name.split("_") if word])
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("__")
    ]
    assert sum(counts) / len(counts) >= WORDS_PER_FUNCTION


@pytest.mark.parametrize("word", RETIRED_WORDS)
def test_retired_words_are_not_used(word: str) -> None:
    documents = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found = [
        str(path)
        for path in (*(ROOT / module for module, _ in modules()), *documents)
        if re.search(word, path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_modules_are_short() -> None:
    lengths = {
        str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path, _ in modules()
    }
    assert {path: length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
    assert [str(path) for path, _ in modules() if drawers & {*path.parts, path.stem}] == []
