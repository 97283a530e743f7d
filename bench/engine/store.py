"""The one module that knows where a run keeps its files, and that every file is whole or not there.

    DIR/records/KEY.json       one record per cell
    DIR/poisons/KEY/           tensors.safetensors, about.json
    DIR/surrogates/KEY/        tensors.safetensors, about.json
    DIR/bookmarks/KEY.pt       how far the crafting of a poison has come, gone once it is there

Folders are written aside and renamed into place. Tensors carry a checksum; nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil
from torch import Tensor

from bench.errors import BenchError
from bench.record import SCHEMA, Record, digest, read_record, write_record

POISONS: Final = "poisons"
SURROGATES: Final = "surrogates"
_TENSORS, _ABOUT = "tensors.safetensors", "about.json"


class DamagedError(BenchError):
    """A stored file that is not what was written."""


class Store:
    """A run's folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.records = out / "records"
        self.bookmarks = out / "bookmarks"

    def prepare(self) -> None:
        """Make the folders and remove what killed processes of this machine left half-written.

        Raises:
            BenchError: when the folder cannot be written to.
        """
        try:
            for folder in (self.records, self.out / POISONS, self.out / SURROGATES):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.out / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise BenchError(
                f"cannot write to the output folder {self.out}: {error.strerror or error}"
            ) from error
        self._sweep()

    def _sweep(self) -> None:
        for folder in (self.records, self.bookmarks, self.out / POISONS, self.out / SURROGATES):
            for left in folder.glob(".*"):
                match = re.fullmatch(r"\.[0-9a-f]+(?:\.json)?\.(\d+)(?:\.tmp)?", left.name)
                if match and not psutil.pid_exists(int(match.group(1))):
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink(missing_ok=True)

    def read(self, key: str) -> Record | None:
        """Return the record of a cell, None where there is none.

        Raises:
            BenchError: when the file is damaged.
        """
        path = self.records / f"{key}.json"
        return read_record(path) if path.exists() else None

    def write(self, record: Record) -> None:
        """Write a cell's record."""
        write_record(self.records, record)

    def folder(self, kind: str, key: str) -> Path:
        """Return the folder of a poison or a surrogate."""
        return self.out / kind / key

    def save(self, kind: str, key: str, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
        """Write a poison or a surrogate; one that another process has finished meanwhile is kept.

        Raises:
            BenchError: when it cannot be written; nothing half-written is left.
        """
        from safetensors.torch import save_file

        target = self.folder(kind, key)
        aside = target.with_name(f".{key}.{os.getpid()}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / _TENSORS)
            body = {**about, "tensors_sha256": _sha256(aside / _TENSORS)}
            text = json.dumps({"schema": SCHEMA, "checksum": digest(body), "about": body}, indent=1)
            (aside / _ABOUT).write_text(text, encoding="utf-8")
            for path in aside.iterdir():
                _sync(path)
            if not target.exists():
                aside.rename(target)
        except OSError as error:
            raise BenchError(f"cannot write {target}: {error.strerror or error}") from error
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
            sound = content["schema"] == SCHEMA and content["checksum"] == digest(about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{folder / _ABOUT} is damaged: {error}") from error
        if not sound:
            raise DamagedError(f"{folder / _ABOUT} is damaged: its checksum does not match")
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

    def load(self, kind: str, key: str, prefix: str = "") -> dict[str, Tensor]:
        """Return the tensors of a poison or a surrogate whose names begin with a prefix, without it."""
        from safetensors import SafetensorError, safe_open

        path = self.folder(kind, key) / _TENSORS
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
                return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error

    def discard(self, kind: str, key: str) -> None:
        """Remove a poison or a surrogate, so that it is made again."""
        shutil.rmtree(self.folder(kind, key), ignore_errors=True)

    def bookmark(self, key: str) -> Path:
        """Return the file that says how far the crafting of a poison has come."""
        return self.bookmarks / f"{key}.pt"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
