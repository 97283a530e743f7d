"""The board of a run, drawn again only if something it is made from has changed. Standard library only.

Drawing the board of ten thousand records takes seconds: most of the time of a run with nothing to do.
"""

import json
from pathlib import Path

from bench.files import NotAFileError, hash_bytes, hash_file, hash_json, require_file, write_atomically

BOARD, SEAL = "leaderboard.md", "leaderboard.seal"
"""The board, and the file with the hashes of the board and of its inputs."""


def hash_board_inputs(folder: Path) -> str:
    """Return a hash of what a run's board is made from: its records, its note, and the code of this package.

    The published scores, a file in this package, are included. Of a record the name, size, inode number and
    time of modification are hashed: replacing the file changes them.
    """
    files = (path for path in (folder / "records").glob("*.json") if path.is_file())
    states = sorted(
        (path.name, (state := path.stat()).st_size, state.st_ino, state.st_mtime_ns) for path in files
    )
    code = (path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".toml"))
    return hash_json([states, [_hash_if_present(path) for path in (folder / "run.json", *sorted(code))]])


def read_cached_board(folder: Path, input_hash: str) -> str | None:
    """Return the board in a run's folder if it is intact and was made from the same inputs, else None."""
    try:
        seal = json.loads(require_file(folder / SEAL).read_text(encoding="utf-8"))
        if seal == {"source": input_hash, "board": _hash_if_present(folder / BOARD)}:
            return require_file(folder / BOARD).read_text(encoding="utf-8")
    except (OSError, ValueError, RecursionError):  # absent or damaged
        pass
    return None


def write_cached_board(folder: Path, input_hash: str, board: str) -> None:
    """Write a board and its seal.

    Args:
        folder: of the run.
        input_hash: from `hash_board_inputs`, taken before the records were read.
        board: the text.

    Raises:
        BenchError: if the folder cannot be written to.
    """
    write_atomically(folder / BOARD, board)
    seal = {"source": input_hash, "board": hash_bytes(board.encode())}
    write_atomically(folder / SEAL, json.dumps(seal) + "\n")


def _hash_if_present(path: Path) -> str:
    try:
        return hash_file(path)
    except (FileNotFoundError, NotAFileError):
        return ""
