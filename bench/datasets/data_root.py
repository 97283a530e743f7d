"""Files that users keep under a data root: where they are, what is missing and what to do about it.

People have downloads as mirrors give them: in another case, a level deeper, or still packed. A dataset
declares its files once, as a `FileLayout`, which finds them in all of these places.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.files import require_file

Found = Mapping[str, Path]
"""Every entry's file or folder; ``""`` is the dataset's folder."""

_DEPTHS: Final[tuple[str, ...]] = ("", "*/", "*/*/")
"""Where an entry is looked for, below the dataset's folder."""

_COMMANDS: Final = {
    (".zip",): "unzip -q {archive} -d {folder}",
    (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"): "tar -xf {archive} -C {folder}",
    (".7z", ".7z.001"): "7z x {archive} -o{folder}",
    (".rar",): "unrar x {archive} {folder}/",
    (".csv.gz", ".txt.gz", ".mat.gz"): "gunzip -k {archive}",
}
"""Ends of the names of archives → the command that extracts them."""

_PACKED: Final = tuple(suffix for suffixes in _COMMANDS for suffix in suffixes)

_KAGGLE: Final = "archive"
"""The name of every download from Kaggle."""

_MAX_NAMED: Final = 6
"""A sentence on what a folder has names no more entries than this."""


@dataclass(frozen=True)
class FileLayout:
    """The files of a dataset, by every name that they have on common mirrors.

    Names are found in upper and lower case, in the dataset's folder or up to two levels below it.

    Attributes:
        dataset: the dataset's name.
        folders: names of its folder under the data root, that of our own layout first; case, ``-`` and ``_``
            do not matter. The data root itself counts if it has such a name or all entries.
        entries: entry → globs of a file, or of a folder if they end in ``/``; the first that exists counts.
        wanted: the expected files, for people.
        loose: whether the data root may have the entries itself, whatever its name.
    """

    dataset: str
    folders: tuple[str, ...]
    entries: Mapping[str, tuple[str, ...]]
    wanted: str
    loose: bool = True

    def missing(self, root: Path | None, entries: Collection[str] | None = None) -> str | None:
        """Return a sentence on what is missing under the data root, None if nothing is.

        Args:
            root: the data root.
            entries: the needed entries; None: all.
        """
        found = self._search(root, self.entries if entries is None else entries)
        return found if isinstance(found, str) else None

    def find(self, root: Path | None, entries: Collection[str] | None = None) -> Found:
        """Return where the needed entries are.

        Raises:
            BenchError: if one is missing.
        """
        found = self._search(root, self.entries if entries is None else entries)
        if isinstance(found, str):
            raise BenchError(found)
        return found

    def _search(self, root: Path | None, entries: Collection[str]) -> Found | str:
        """Return the needed entries, or a sentence on the first that is missing."""
        if root is None:
            return _explain_data_root(self.dataset, self.wanted)
        folders = self._dataset_folders(root)
        depths = dict.fromkeys(folders, _DEPTHS)
        if self.loose and root not in depths:
            depths[root] = _DEPTHS[:1]
        problem = ""
        for folder, below in depths.items():
            paths = {name: _find_paths(folder, self.entries[name], below) for name in entries}
            absent = next((name for name in entries if not paths[name]), None)
            if absent is None:
                return {"": folder, **{name: found[-1] for name, found in paths.items()}}
            problem = problem or self._explain_absence(root, folders, self.entries[absent])
        return problem or self._explain_absence(root, folders, next(iter(self.entries.values())))

    def _dataset_folders(self, root: Path) -> list[Path]:
        """Return the existing folders with one of the dataset's names."""
        names = [_simplify(name) for name in self.folders]
        exact = [root / self.folders[0]] if (root / self.folders[0]).is_dir() else []
        similar = [path for path in _children(root) if _simplify(path.name) in names and path.is_dir()]
        itself = [root] if _simplify(root.resolve().name) in names else []
        return list(dict.fromkeys([*exact, *similar, *itself]))

    def _explain_absence(self, root: Path, folders: Sequence[Path], patterns: Sequence[str]) -> str:
        """Return the sentence on an entry that is in none of the dataset's folders."""
        folder = folders[0] if folders else root / self.folders[0]
        names = [*self.folders, *_plain_names(patterns), _KAGGLE]
        archives = [
            *_archives_of(_plain_names(patterns), folders),
            *(path for path in _archives_of([""], folders) if not _is_extracted(path)),
            *_archives_of(names, [root]),
        ]
        return _explain_absence(folder, patterns[0], archives, folder if folders else root, self.wanted)


def describe_missing_file(dataset: str, root: Path | None, path: Path, wanted: str) -> str | None:
    """Return a sentence on a file that is missing under the data root, None if it is there.

    Args:
        dataset: the dataset's name.
        root: the data root.
        path: the file, below the data root.
        wanted: the expected files, for people.
    """
    if root is None:
        return _explain_data_root(dataset, wanted)
    folder = (root / path).parent
    if (root / path).is_file():
        return None
    beside = [archive for archive in list_archives(root) if archive.name.startswith(folder.name)]
    archives = [*list_archives(folder), *beside]
    return _explain_absence(folder, path.name, archives, folder if folder.is_dir() else root, wanted)


def _explain_data_root(dataset: str, wanted: str) -> str:
    return f"dataset {dataset!r} needs files on disk; pass --data-root with {wanted} under it"


def _explain_absence(folder: Path, name: str, archives: Sequence[Path], seen: Path, wanted: str) -> str:
    """Return a sentence on what is missing: what is there, what is wanted, what to do.

    Args:
        folder: the dataset's folder, which need not exist.
        name: what is missing in it.
        archives: packed files that may hold it, the most likely one first.
        seen: the folder that was found.
        wanted: the expected files, for people.
    """
    target = folder / name
    if not archives:
        return f"there is no {target}; pass --data-root with {wanted} under it ({_list_entries(seen)})"
    archive, *others = dict.fromkeys(archives)
    place = archive.parent if archive.is_relative_to(folder) else folder
    more = f" and {len(others)} more" if others else ""
    return f"there is no {target}, but {archive}{more}; extract with: {extraction_command(archive, place)}"


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


def no_image_error(what: str, folder: Path) -> BenchError:
    """Return the error for a dataset without a usable image, which names packed files in its folder.

    Args:
        what: what is missing, as the beginning of a sentence.
        folder: the dataset's folder.
    """
    archives = _archives_of([""], [folder])
    if not archives:
        return BenchError(f"{what} ({_list_entries(folder)})")
    more = f" and {len(archives) - 1} more" if len(archives) > 1 else ""
    command = extraction_command(archives[0], archives[0].parent)
    return BenchError(f"{what}, but there is {archives[0]}{more}; extract with: {command}")


def list_archives(folder: Path) -> list[Path]:
    """Return the packed files in a folder, sorted."""
    return [path for path in _children(folder) if path.name.lower().endswith(_PACKED) and path.is_file()]


def extraction_command(archive: Path, folder: Path) -> str:
    """Return the command for a shell that extracts an archive into a folder."""
    name = archive.name.lower()
    command = next(command for suffixes, command in _COMMANDS.items() if name.endswith(suffixes))
    paths = {"archive": shlex.quote(str(archive)), "folder": shlex.quote(str(folder))}
    make = "mkdir -p {folder} && " if command.startswith("tar") and not folder.is_dir() else ""
    return (make + command).format(**paths)


def _archives_of(names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """Return the packed files in some folders, and in those in them, whose names start with one of these."""
    starts = tuple(map(_simplify, names))
    places = [place for folder in folders for place in (folder, *filter(Path.is_dir, _children(folder)))]
    return [
        path for place in places for path in list_archives(place) if _simplify(path.name).startswith(starts)
    ]


def _is_extracted(archive: Path) -> bool:
    """Return whether something of an archive's name lies beside it."""
    suffix = next(suffix for suffix in _PACKED if archive.name.lower().endswith(suffix))
    return archive.with_name(archive.name[: -len(suffix)]).exists()


def _list_entries(folder: Path) -> str:
    """Return what a folder has, in a few words."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = [path.name + "/" * path.is_dir() for path in _children(folder)]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{folder} has {', '.join(names[:_MAX_NAMED])}{more}" if names else f"{folder} is empty"


@contextmanager
def name_unreadable_file(path: Path) -> Iterator[None]:
    """Raise a `BenchError` that names the file when it is none, or when the system cannot read it."""
    try:
        require_file(path)
        yield
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error


def read_published_bytes(path: Path, checksum: str) -> bytes:
    """Return the content of a file that has the published MD5.

    Raises:
        BenchError: if it is not the published file or cannot be read.
    """
    with name_unreadable_file(path):
        content = path.read_bytes()
    if md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise BenchError(f"{path} is not the published file (its MD5 is not {checksum}); download it again")
    return content


def _find_paths(folder: Path, patterns: Sequence[str], depths: Sequence[str] = _DEPTHS) -> list[Path]:
    """Return what matches the first pattern that matches anything, sorted: in this case, else in either."""
    for depth in depths:
        for pattern in patterns:
            for glob in (depth + pattern, depth + _either_case(pattern)):
                found = sorted(path for path in folder.glob(glob) if _has_kind(path, pattern))
                if found:
                    return found
    return []


def _has_kind(path: Path, pattern: str) -> bool:
    return path.is_dir() if pattern.endswith("/") else path.is_file()


def _either_case(pattern: str) -> str:
    """Return a glob that matches upper and lower case."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in pattern)


def _children(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without hidden entries; nothing if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _simplify(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(c for c in name.lower() if c.isalnum())


def _plain_names(patterns: Sequence[str]) -> list[str]:
    """Return the parts of globs that are plain names, without their suffix."""
    parts = [part for glob in patterns for part in glob.strip("/").split("/")]
    return [part.partition(".")[0] for part in parts if not set(part) & set("*[")]
