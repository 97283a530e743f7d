"""The private names of other libraries that the product uses, each with the reason. There are no others.

A private name can change in any release: whoever renews a library's version reads this list.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "baselines", "mtlue", "leaderboard")

OPERATIONS = "torchvision draws one operation for a whole batch; we draw per image, and compute with its code"

PRIVATE_USE = {
    ("bench/datasets/image_files.py", "_imaging"): (
        "libtiff writes its warnings past Python to stderr, and Pillow has no option against that"
    ),
    ("bench/defenses/randaugment.py", "_AUGMENTATION_SPACE"): OPERATIONS,
    ("bench/defenses/randaugment.py", "_apply_image_or_video_transform"): OPERATIONS,
    ("bench/defenses/randaugment.py", "_fill"): OPERATIONS,
    ("bench/engine/executors/slurm.py", "_results_timeout_s"): (
        "submitit waits 15 s for a result that a killed local job never wrote, and has no option for that"
    ),
    ("bench/training/net.py", "_version"): (
        "PyTorch counts the writes to a tensor there, and nothing public tells whether one was written to"
    ),
}
"""(file, name) → why it is used."""

DOCUMENTED = {"_exit", "_asdict", "_fields", "_make", "_replace"}
"""Names of the standard library that begin with an underscore and are public: of os and of named tuples."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_" and name not in DOCUMENTED


def defined_names(tree: ast.AST) -> set[str]:
    """Return the names that a module defines: functions, classes, variables and attributes of ``self``."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def foreign_private_names(tree: ast.AST, defined_here: set[str], defined_in_tree: set[str]) -> Iterator[str]:
    """Yield the private names that a module uses and the project does not define.

    An attribute of ``self`` may come from a base class in another module of ours, any other may not.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                if is_private(name) and name not in defined_in_tree:
                    yield name
            case ast.Attribute(attr=name):
                if is_private(name) and name not in defined_here:
                    yield name
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases if any(map(is_private, alias.name.split("."))))
            case ast.ImportFrom(module=module, names=aliases):
                if any(map(is_private, (module or "").split("."))):
                    yield str(module)
                yield from (alias.name for alias in aliases if is_private(alias.name))
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(name), *_]
            ):
                if is_private(str(name)) and name not in defined_here:
                    yield str(name)


def test_private_names_of_other_libraries_are_listed() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    defined = {path: defined_names(tree) for path, tree in trees.items()}
    in_tree = set().union(*defined.values())
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path, tree in trees.items()
        for name in foreign_private_names(tree, defined[path], in_tree)
    }
    assert found == set(PRIVATE_USE)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch\ntorch._C.x()", ["_C"]),
        ("from torch.nn.modules.batchnorm import _BatchNorm", ["_BatchNorm"]),
        ("from mlflow._thing import x", ["mlflow._thing"]),
        ("import mlflow._thing", ["mlflow._thing"]),
        ("job._timeout = 0", ["_timeout"]),
        ("getattr(job, '_timeout')", ["_timeout"]),
        ("class A(B):\n    def f(self):\n        return self._inherited", ["_inherited"]),
        ("class A(B):\n    def f(self):\n        self._own = 1\n        return self._own", []),
        ("def f(other):\n    return other._own\ndef _own():\n    pass", []),
        ("import os\nos._exit(1)\n_ = point._replace(x=1)", []),
        ("from __future__ import annotations\nx.__class__", []),
    ],
)
def test_the_search_finds_private_names(code: str, expected: list[str]) -> None:
    tree = ast.parse(code)
    names = defined_names(tree)
    assert list(foreign_private_names(tree, names, names)) == expected
