"""The files of a run. No other module knows where they are; each file is complete or missing.

    DIR/records/KEY.json       one record per cell
    DIR/poisons/KEY/           tensors.safetensors, about.json, and examples.safetensors: a few of its images
    DIR/surrogates/KEY/        tensors.safetensors, about.json
    DIR/purified/KEY/          tensors.safetensors, about.json
    DIR/checkpoints/KEY.pt     the state of an unfinished crafting, removed once the poison is stored
    DIR/locks                  which run works on which item; empty
    DIR/.mtlue-run             marks a run's folder; empty

A run replaces and removes files, so it refuses a folder that has others. It removes only files with the full
name of its own. Everything is written under a temporary name and renamed. Tensors have a checksum; nothing is
ever unpickled.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import BenchError
from bench.example_images import EXAMPLES
from bench.files import (
    flush_to_disk,
    hash_file,
    hash_json,
    make_writable_folder,
    remove_own_folder,
    require_file,
)
from bench.record import Record, read_record, read_records, write_record
from bench.run_summary import has_run_summary

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA: Final = 1
"""Version of the layout of about.json."""

RECORDS: Final = "records"
POISONS: Final = "poisons"
SURROGATES: Final = "surrogates"
PURIFIED: Final = "purified"
_TENSORS, _ABOUT = "tensors.safetensors", "about.json"
_FILES = (_TENSORS, EXAMPLES, _ABOUT)
"""Files in the folder of a poison, a surrogate or a purified set, in the order in which they are replaced."""

_MARK = ".mtlue-run"

_KEY = re.compile(r"[0-9a-f]+")

_TEMPORARY_FILE = re.compile(r"\.[0-9a-f]+\.(json|pt)\.\d+\.tmp")
_TEMPORARY_FOLDER = re.compile(r"\.[0-9a-f]+\.\d+")
"""Names of what is being written; they contain the key and the number of the writing process."""

Stamp = tuple[int, int]
"""Changes when a stored item is replaced."""


class DamagedError(BenchError):
    """A stored file is not what was written."""


class Store:
    """A run's folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.records = out / RECORDS
        self.checkpoints = out / "checkpoints"
        self.locks = out / "locks"

    def check_ownership(self) -> None:
        """Check that a run may use the folder: it is missing, empty, or the folder of a run.

        Hidden files are not counted. Earlier versions did not mark a folder: their ``run.json`` or any valid
        record shows that it is a run's.

        Raises:
            BenchError: when it is not, or cannot be read.
        """
        try:
            is_empty = not self.out.exists() or all(path.name.startswith(".") for path in self.out.iterdir())
        except OSError as error:
            raise BenchError(f"cannot write to the output folder {self.out}: {error.strerror}") from error
        if is_empty or (self.out / _MARK).exists() or has_run_summary(self.out):
            return
        if not any(isinstance(record, Record) for record in read_records(self.records, curve=False)):
            raise BenchError(
                f"{self.out} has files of something else than a run, which a run could replace; give --out a "
                "new or an empty folder"
            )

    def prepare(self) -> None:
        """Create the folders, and mark the run's folder as one.

        Raises:
            BenchError: when the folder cannot be written to, or has files that no run has written.
        """
        self.check_ownership()
        try:
            make_writable_folder(self.out)
            if not (self.out / _MARK).exists():
                (self.out / _MARK).touch()
            for folder in (self.records, self.out / POISONS, self.out / SURROGATES):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchError(
                f"cannot write to the output folder {self.out}: {error.strerror or error}"
            ) from error

    def remove_leftovers(self) -> None:
        """Remove incomplete files of killed processes; only safe if no other run uses the folder."""
        for folder in (self.records, self.checkpoints):
            for path in folder.glob(".*"):
                if _TEMPORARY_FILE.fullmatch(path.name) and path.is_file():
                    path.unlink(missing_ok=True)
        for kind in (POISONS, SURROGATES, PURIFIED):
            for path in (self.out / kind).glob(".*"):
                if _TEMPORARY_FOLDER.fullmatch(path.name):
                    _remove_item(path)

    def stamp(self, kind: str, key: str) -> Stamp | None:
        """Return the stamp of a record, poison, ...; None if it is missing."""
        try:
            stat = self._last_file(kind, key).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _last_file(self, kind: str, key: str) -> Path:
        """Return the file that is written last."""
        return (
            self.records / f"{_check_key(key)}.json" if kind == RECORDS else self.folder(kind, key) / _ABOUT
        )

    def read_record(self, key: str, *, curve: bool = True) -> Record | None:
        """Return the record of a cell, with or without its learning curve; None if it is missing.

        Raises:
            BenchError: when the file is damaged.
        """
        path = self._last_file(RECORDS, key)
        return read_record(path, curve=curve) if path.exists() else None

    def write_record(self, record: Record) -> None:
        """Write a cell's record."""
        _check_key(record.key)
        write_record(self.records, record)

    def folder(self, kind: str, key: str) -> Path:
        """Return the folder of a poison, a surrogate or a purified set."""
        return self.out / kind / _check_key(key)

    def save(
        self,
        kind: str,
        key: str,
        tensors: "Mapping[str, Tensor]",
        about: dict[str, Any],
        examples: bytes | None = None,
    ) -> None:
        """Store tensors and what is known about them, in place of an earlier version.

        The files are replaced one by one, so that other processes can always read them. The file about.json
        is replaced last, since it has the checksum of the tensors.

        Args:
            kind: what is stored.
            key: its key.
            tensors: name → tensor.
            about: what is known about them.
            examples: the content of `bench.example_images.EXAMPLES`; None: there is no such file.

        Raises:
            BenchError: when they cannot be written; no incomplete file is left.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        target = self.folder(kind, key)
        temporary = target.with_name(f".{key}.{os.getpid()}")
        try:
            _remove_item(temporary)
            temporary.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / _TENSORS)
            body = {**about, "key": key, "tensors_sha256": hash_file(temporary / _TENSORS)}
            if examples is not None:
                (temporary / EXAMPLES).write_bytes(examples)
            text = json.dumps({"schema": SCHEMA, "checksum": hash_json(body), "about": body}, indent=1)
            (temporary / _ABOUT).write_text(text, encoding="utf-8")
            for path in temporary.iterdir():
                flush_to_disk(path)
            if target.is_dir():
                if examples is None:
                    (target / EXAMPLES).unlink(missing_ok=True)
                for name in _FILES:
                    if (temporary / name).exists():
                        (temporary / name).replace(target / name)
            else:
                target.unlink(missing_ok=True)
                temporary.rename(target)
        except (OSError, SafetensorError) as error:
            raise BenchError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
        finally:
            _remove_item(temporary)

    def read_about(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return what is known about stored tensors; None if they are missing.

        Raises:
            DamagedError: when about.json is damaged or the tensors are missing.
        """
        folder = self.folder(kind, key)
        if not folder.exists():
            return None
        try:
            content = json.loads(require_file(folder / _ABOUT).read_text(encoding="utf-8"))
            about: dict[str, Any] = content["about"]
            is_valid = content["schema"] == SCHEMA and content["checksum"] == hash_json(about)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{folder / _ABOUT} is damaged: {error}") from error
        if not is_valid:
            raise DamagedError(f"{folder / _ABOUT} is damaged: its checksum does not match")
        if about.get("key", key) != key:  # earlier versions did not store it
            raise DamagedError(f"{folder / _ABOUT} belongs to another key, {about['key']}")
        if not (folder / _TENSORS).exists():
            raise DamagedError(f"{folder / _TENSORS} is missing")
        return about

    def verify(self, kind: str, key: str) -> bool:
        """Return whether a poison, a surrogate or a purified set is stored, and check every byte of it.

        Raises:
            DamagedError: when it is damaged.
        """
        about = self.read_about(kind, key)
        if about is None:
            return False
        path = self.folder(kind, key) / _TENSORS
        try:
            is_intact = about["tensors_sha256"] == hash_file(path)
        except OSError as error:
            raise DamagedError(f"{path} is damaged: {error.strerror or error}") from error
        if not is_intact:
            raise DamagedError(f"{path} is damaged: its checksum does not match")
        return True

    def load(self, kind: str, key: str, prefix: str = "") -> "dict[str, Tensor]":
        """Return the stored tensors whose names begin with a prefix, under names without the prefix."""
        from safetensors import SafetensorError, safe_open

        path = self.folder(kind, key) / _TENSORS
        try:
            with safe_open(require_file(path), framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
                return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error

    def checkpoint_path(self, key: str) -> Path:
        """Return the file with the state of an unfinished crafting."""
        return self.checkpoints / f"{_check_key(key)}.pt"


def _remove_item(folder: Path) -> None:
    """Remove the folder of a poison, a surrogate or a purified set, unless it has other files too."""
    remove_own_folder(folder, [folder / name for name in _FILES])


def _check_key(key: str) -> str:
    """Return a key that is safe in a path; any other text could lead out of the folder."""
    if not _KEY.fullmatch(key):
        raise BenchError(f"{key!r} is not a key: a key has only hexadecimal digits")
    return key
