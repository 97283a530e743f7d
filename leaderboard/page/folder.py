"""Write a page to a folder, without touching what somebody else has put there."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.errors import BenchError
from bench.files import require_file, write_atomically

MARKER = ".mtlue-page"
"""Marks the folder of a page; it lists the files of the page, one per line."""


def encode_marker(paths: Iterable[str]) -> bytes:
    """Return the content of the marker of a page with these files."""
    return "".join(f"{path}\n" for path in sorted({*paths, MARKER})).encode()


def write_page(folder: Path, page: Mapping[str, bytes]) -> None:
    """Write a page. An older page in the folder is replaced; other files in it stay.

    Args:
        folder: made if it does not exist.
        page: path in the folder → content, from `leaderboard.page.build.render_web_page`.

    Raises:
        BenchError: if the folder has files but no page, if a file of somebody else has the name of one of the
            page, or if it cannot be written to.
    """
    own = _read_marker(folder)
    if own is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BenchError(f"{folder} has files but no page: name a new or an empty folder, or that of a page")
    own = own or set()
    for path in sorted(page.keys() - own - {MARKER}):
        if (folder / path).exists():
            raise BenchError(f"{folder / path} is in the way of the page and not part of one: move it away")
    # Until the old files are gone the marker names them too, so a write that was cut short can be repeated.
    write_atomically(folder / MARKER, encode_marker(own | page.keys()))
    for path, content in page.items():
        if path != MARKER:
            write_atomically(folder / path, content, flush=False)
    for path in sorted(own - page.keys() - {MARKER}):
        with contextlib.suppress(OSError):  # somebody has removed it
            (folder / path).unlink()
    write_atomically(folder / MARKER, encode_marker(page))


def _read_marker(folder: Path) -> set[str] | None:
    """Return the files of the page in a folder, None if there is no page."""
    try:
        lines = require_file(folder / MARKER).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    # Somebody could have written a path that leads out of the folder.
    return {line for line in lines if line and not Path(line).is_absolute() and ".." not in Path(line).parts}
