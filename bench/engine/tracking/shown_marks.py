"""Notes of what is shown already, for sinks that cannot be asked."""

from pathlib import Path

from bench.files import hash_json, require_file, write_atomically


class ShownMarks:
    """A folder with a small file for each thing that is shown: the hashes of its parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, *name: str) -> list[str]:
        """Return the hashes of what is shown under a name, none if nothing is."""
        try:
            return require_file(self._path(name)).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            return []

    def write(self, *name: str, parts: list[str]) -> None:
        """Note what is shown now; no parts while it is being replaced."""
        write_atomically(self._path(name), "\n".join(parts), flush=False)

    def _path(self, name: tuple[str, ...]) -> Path:
        return self._folder / hash_json(name)[:32]
