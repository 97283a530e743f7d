"""The one module that knows where a run keeps its files, and that every file is whole or not there.

    DIR/records/KEY.json       one record per cell
    DIR/poisons/KEY/           tensors.safetensors, about.json
    DIR/surrogates/KEY/        tensors.safetensors, about.json
    DIR/purified/KEY/          tensors.safetensors, about.json
    DIR/checkpoints/KEY.pt       how far the crafting of a poison has come, gone once it is there
    DIR/locks                  which run does what; empty

Everything is written aside and renamed into place. Tensors carry a checksum; nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import BenchError
from bench.files import hash_json
from bench.record import Record, read_record, write_record

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA: Final = 1
"""Version of the layout of the notes that are kept beside tensors."""

RECORDS: Final = "records"
POISONS: Final = "poisons"
SURROGATES: Final = "surrogates"
PURIFIED: Final = "purified"
_TENSORS, _ABOUT = "tensors.safetensors", "about.json"

_KEY = re.compile(r"[0-9a-f]+")

_ASIDE = re.compile(r"\.[0-9a-f]{16}\.\d+|\..+\.\d+\.tmp")
"""The names of folders and files that are being written: with the number of the process that does."""

Stamp = tuple[int, int]


class DamagedError(BenchError):
    """A stored file that is not what was written."""


class Store:
    """A run's folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.records = out / RECORDS
        self.checkpoints = out / "checkpoints"
        self.locks = out / "locks"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            BenchError: when the folder cannot be written to.
        """
        try:
            for folder in (self.records, self.out / POISONS, self.out / SURROGATES):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.out / f".probe.{os.getpid()}.tmp"
            probe.write_bytes(b"room")
            probe.unlink()
        except OSError as error:
            raise BenchError(
                f"cannot write to the output folder {self.out}: {error.strerror or error}"
            ) from error

    def sweep(self) -> None:
        """Remove what killed processes left half-written; only for when no other run is there."""
        kinds = (POISONS, SURROGATES, PURIFIED)
        for folder in (self.records, self.checkpoints, *(self.out / kind for kind in kinds)):
            for left in folder.glob(".*"):
                if not _ASIDE.fullmatch(left.name):
                    continue
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)

    def stamp(self, kind: str, key: str) -> Stamp | None:
        """Return what changes when a record, poison, ... is replaced; None where there is none."""
        try:
            found = self._witness(kind, key).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _witness(self, kind: str, key: str) -> Path:
        """Return the file that is put in place last."""
        return self.records / f"{_checked(key)}.json" if kind == RECORDS else self.folder(kind, key) / _ABOUT

    def read(self, key: str, *, curve: bool = True) -> Record | None:
        """Return the record of a cell, with or without its learning curve; None where there is none.

        Raises:
            BenchError: when the file is damaged.
        """
        path = self._witness(RECORDS, key)
        return read_record(path, curve=curve) if path.exists() else None

    def write(self, record: Record) -> None:
        """Write a cell's record."""
        _checked(record.key)
        write_record(self.records, record)

    def folder(self, kind: str, key: str) -> Path:
        """Return the folder of a poison or a surrogate."""
        return self.out / kind / _checked(key)

    def save(self, kind: str, key: str, tensors: "Mapping[str, Tensor]", about: dict[str, Any]) -> None:
        """Write a poison or a surrogate; one that is there is replaced, file by file.

        So whoever reads it meanwhile finds it. The note comes last, as it vouches for the tensors.

        Raises:
            BenchError: when it cannot be written; nothing half-written is left.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        target = self.folder(kind, key)
        aside = target.with_name(f".{key}.{os.getpid()}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / _TENSORS)
            body = {**about, "key": key, "tensors_sha256": _sha256(aside / _TENSORS)}
            text = json.dumps({"schema": SCHEMA, "checksum": hash_json(body), "about": body}, indent=1)
            (aside / _ABOUT).write_text(text, encoding="utf-8")
            for path in aside.iterdir():
                _sync(path)
            if target.is_dir():
                for name in (_TENSORS, _ABOUT):
                    (aside / name).replace(target / name)
            else:
                target.unlink(missing_ok=True)
                aside.rename(target)
        except (OSError, SafetensorError) as error:
            raise BenchError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def about(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return what is noted of a poison or a surrogate, None where there is none.

        Raises:
            DamagedError: when its note is damaged or its tensors are missing.
        """
        folder = self.folder(kind, key)
        if not folder.exists():
            return None
        try:
            content = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            about: dict[str, Any] = content["about"]
            sound = content["schema"] == SCHEMA and content["checksum"] == hash_json(about)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{folder / _ABOUT} is damaged: {error}") from error
        if not sound:
            raise DamagedError(f"{folder / _ABOUT} is damaged: its checksum does not match")
        if about.get("key", key) != key:  # older ones do not have it
            raise DamagedError(f"{folder / _ABOUT} is of another key, {about['key']}")
        if not (folder / _TENSORS).exists():
            raise DamagedError(f"{folder / _TENSORS} is missing")
        return about

    def verify(self, kind: str, key: str) -> bool:
        """Return whether a poison or a surrogate is there, every byte as it was written.

        Raises:
            DamagedError: when it is damaged.
        """
        about = self.about(kind, key)
        if about is None:
            return False
        path = self.folder(kind, key) / _TENSORS
        if about["tensors_sha256"] != _sha256(path):
            raise DamagedError(f"{path} is damaged: its checksum does not match")
        return True

    def load(self, kind: str, key: str, prefix: str = "") -> "dict[str, Tensor]":
        """Return the tensors of a poison or a surrogate whose names begin with a prefix, without it."""
        from safetensors import SafetensorError, safe_open

        path = self.folder(kind, key) / _TENSORS
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
                return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error

    def checkpoint(self, key: str) -> Path:
        """Return the file that says how far the crafting of a poison has come."""
        return self.checkpoints / f"{_checked(key)}.pt"


def _checked(key: str) -> str:
    """Return a key that names a file of ours; any other word could lead out of the folder."""
    if not _KEY.fullmatch(key):
        raise BenchError(f"{key!r} is no key: a key has hexadecimal digits alone")
    return key


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
