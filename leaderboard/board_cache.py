"""A board that is still that of its folder is read, not drawn once more. Standard library only.

Of ten thousand records it takes seconds: a run that finds all done would spend most of its time on it.
"""

import hashlib
import json
from pathlib import Path

from bench.files import hash_json, write_atomically

BOARD, SEAL = "leaderboard.md", "leaderboard.seal"


def hash_board_inputs(folder: Path) -> str:
    """Return a digest of what a run's board is made from: its records, its note, and the code that draws it.

    The published figures beside the code are part of it. Of a record its name, size, number and time of
    change are taken: whatever replaces it changes them.
    """
    files = (folder / "records").glob("*.json")
    states = sorted(
        (path.name, (state := path.stat()).st_size, state.st_ino, state.st_mtime_ns) for path in files
    )
    code = Path(__file__).parent
    drawing = (path for path in code.rglob("*") if path.suffix in (".py", ".toml"))
    texts = [folder / "run.json", *sorted(drawing)]
    return hash_json([states, [_hash(path) for path in texts]])


def read_cached_board(folder: Path, made_from: str) -> str | None:
    """Return the board in a run's folder if it is of this source and as it was written, else None."""
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if seal == {"source": made_from, "board": _hash(folder / BOARD)}:
            return (folder / BOARD).read_text(encoding="utf-8")
    except (OSError, ValueError):  # not there, or damaged
        pass
    return None


def write_cached_board(folder: Path, made_from: str, board: str) -> None:
    """Write a board, and what vouches for it.

    Args:
        folder: of the run.
        made_from: its source as it was before the records were read.
        board: the text.

    Raises:
        BenchError: when the folder cannot be written to.
    """
    write_atomically(folder / BOARD, board)
    seal = {"source": made_from, "board": hashlib.sha256(board.encode()).hexdigest()}
    write_atomically(folder / SEAL, json.dumps(seal) + "\n")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
