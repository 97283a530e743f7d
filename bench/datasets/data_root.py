"""Files that users keep under a data root: what is missing, and what cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError


def describe_missing_files(dataset: str, root: Path | None, layout: str, *patterns: str) -> str | None:
    """Return a sentence on what is missing under the data root, None if nothing is.

    Args:
        dataset: the dataset's name.
        root: the data root.
        layout: the expected files, for people.
        patterns: the required files and folders, as globs below the root.
    """
    if root is None:
        return f"dataset {dataset!r} needs files on disk; pass --data-root with {layout} under it"
    for pattern in patterns:
        if next(root.glob(pattern), None) is None:
            return f"there is no {root / pattern}; pass --data-root with {layout} under it"
    return None


def require_files(missing: str | None, root: Path | None) -> Path:
    """Return the data root.

    Args:
        missing: what a dataset's ``missing`` returned.
        root: the data root.

    Raises:
        BenchError: with that sentence, if something is missing.
    """
    if root is None or missing:
        raise BenchError(str(missing))
    return root


@contextmanager
def name_unreadable_file(path: Path) -> Iterator[None]:
    """Raise a `BenchError` that names the file when the system cannot read it."""
    try:
        yield
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
