"""What a run's folder shows (board, figures, page), drawn again only if what it is made from has changed.

Drawing the board of ten thousand records takes seconds: most of the time of a run with nothing to do.
Standard library only.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.files import NotAFileError, hash_bytes, hash_file, hash_json, require_file, write_atomically

SEAL = "leaderboard.seal"
"""The file with, for every output, the hash of its inputs and of each of its files."""

_CODE = frozenset({".py", ".toml", ".html", ".css", ".js", ".svg"})


def hash_board_inputs(folder: Path) -> str:
    """Return a hash of what a run's outputs are made from: its records, its note, the code of this package.

    The published scores and the templates in this package are included. Of a record the name, size, inode
    number and time of modification are hashed: replacing the file changes them.
    """
    files = (path for path in (folder / "records").glob("*.json") if path.is_file())
    states = sorted(
        (path.name, (state := path.stat()).st_size, state.st_ino, state.st_mtime_ns) for path in files
    )
    code = (path for path in Path(__file__).parent.rglob("*") if path.suffix in _CODE)
    return hash_json([states, [_hash_if_present(path) for path in (folder / "run.json", *sorted(code))]])


def read_cached_output(folder: Path, input_hash: str, output: str) -> dict[str, bytes] | None:
    """Return the files of an output if they are intact and were made from the same inputs, else None.

    Args:
        folder: of the run.
        input_hash: from `hash_board_inputs`.
        output: its name.

    Returns:
        Path in the folder → content.
    """
    sealed: Any = _read_seal(folder).get(output)
    with contextlib.suppress(OSError, AttributeError, KeyError, TypeError, ValueError):  # absent, damaged
        if sealed["source"] == input_hash:
            files = {name: require_file(folder / name).read_bytes() for name in sealed["files"]}
            if all(hash_bytes(content) == sealed["files"][name] for name, content in files.items()):
                return files
    return None


def write_cached_output(folder: Path, input_hash: str, output: str, files: Mapping[str, bytes]) -> None:
    """Write the files of an output in place of its former ones, and seal them.

    Former files that somebody has changed stay, and so does all that this function did not write.

    Args:
        folder: of the run.
        input_hash: from `hash_board_inputs`, taken before the records were read.
        output: its name.
        files: path in the folder → content.

    Raises:
        BenchError: if the folder cannot be written to.
    """
    for name, content in files.items():
        # A file that a power failure damages does not match its seal, so it need not be flushed to the disk.
        write_atomically(folder / name, content, flush=False)
    seal = _read_seal(folder)
    former: Any = seal.get(output)
    hashes = {name: hash_bytes(content) for name, content in files.items()}
    write_atomically(
        folder / SEAL, json.dumps(seal | {output: {"source": input_hash, "files": hashes}}) + "\n"
    )
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # a damaged seal
        for name in former["files"].keys() - files.keys():
            _remove_unchanged(folder, name, former["files"][name])


def _read_seal(folder: Path) -> dict[str, Any]:
    try:
        seal = json.loads(require_file(folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # absent or damaged
        return {}
    outputs = seal.items() if isinstance(seal, dict) else ()
    return {name: sealed for name, sealed in outputs if isinstance(sealed, dict)}


def _remove_unchanged(folder: Path, name: str, sealed_hash: str) -> None:
    path = folder / name
    if folder.resolve() in path.resolve().parents and _hash_if_present(path) == sealed_hash:
        with contextlib.suppress(OSError):
            path.unlink()


def _hash_if_present(path: Path) -> str:
    try:
        return hash_file(path)
    except (FileNotFoundError, NotADirectoryError, NotAFileError):
        return ""
