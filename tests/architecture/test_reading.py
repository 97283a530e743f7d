"""Every file is checked to be one before it is opened: opening a pipe could wait forever."""

import ast
from collections.abc import Iterator

from tests.architecture.test_names import modules

READERS = {"read_text", "read_bytes", "open", "safe_open", "open_memmap", "loadmat", "read_csv"}

CHECKS = ("require_file(", "name_unreadable_file(")

UNCHECKED = {
    "bench/catalog/description.py": "the source of an installed package",
    "bench/cli/__init__.py": "the null device",
    "bench/dataset_report/html.py": "a file of this package",
    "bench/datasets/cache.py": "written only",
    "bench/datasets/celeba.py": "`_open_list`, whose callers check",
    "bench/datasets/svhn.py": "bytes in memory",
    "bench/defenses/jpeg.py": "bytes in memory",
    "bench/engine/execution/locks.py": "checked in the line before; opened with flags",
    "bench/engine/executors/slurm_folder.py": "a private folder of the run",
    "bench/engine/stages/cost.py": "/proc",
    "bench/engine/tracking/mlflow_database.py": "written only",
    "bench/engine/tracking/tensorboard_sink.py": "bytes in memory",
    "bench/files.py": "written, or written before",
    "bench/memory.py": "/proc and /sys",
    "bench/suites/__init__.py": "a file of this package",
    "leaderboard/page/build.py": "a file of this package",
    "leaderboard/sections/published.py": "a file of this package",
}
"""Module that opens a file without a check → which file."""


def unchecked_reads(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that open a file outside a statement with a check."""
    checked = {
        id(node)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.With | ast.Assign | ast.AnnAssign | ast.Return | ast.If | ast.Expr)
        and any(check in ast.unparse(statement) for check in CHECKS)
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in checked:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in READERS:
                yield node.lineno


def test_files_are_checked_before_they_are_opened() -> None:
    found = {str(path): lines for path, tree in modules() if (lines := list(unchecked_reads(tree)))}
    assert found.keys() == UNCHECKED.keys(), found
