"""One log file per item: everything a worker said while it worked on it.

    DIR/logs/KEY.log    appended to when the item is tried again

A line is written out as soon as it is said, so that of a worker that was killed the log ends where it did.
"""

import contextlib
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bench.text import to_printable

if TYPE_CHECKING:
    from bench.values import Progress

OWN = ("bench", "baselines", "mtlue")
"""Packages whose loggers are heard from INFO on; all others from WARNING on."""

STEP_EVERY_S = 10.0
"""Steps of one kind are noted no more often than this, the first and the last one always."""

TAIL_BYTES = 2**16
"""Most that is read of the end of a log."""


def log_path(out: Path, key: str) -> Path:
    """Return the log file of a surrogate, a poison or a cell in a run's folder."""
    return out / "logs" / f"{key}.log"


def read_tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, as they stand there; none where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


@contextlib.contextmanager
def log_item(out: Path, key: str, label: str, progress: "Progress") -> Iterator["Progress"]:
    """Write what is said in the block to the item's log file, with its beginning, its steps and its end.

    Logging and warnings are afterwards as they were before. Where the file cannot be written, nothing is.

    Args:
        out: the run's folder.
        key: the item's key.
        label: the item in one line.
        progress: where the steps go.

    Yields:
        ``progress`` that is noted too.
    """
    try:
        path = log_path(out, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        log = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield progress
        return
    start = time.perf_counter()
    log.say(f"begins: {label} (process {os.getpid()} on {platform.node()})")
    try:
        with _capture_logging(log):
            yield _LoggedProgress(log, progress)
    except BaseException:
        log.say(f"failed after {time.perf_counter() - start:.1f} s", logging.ERROR, sys.exc_info())
        raise
    else:
        log.say(f"done in {time.perf_counter() - start:.1f} s")
    finally:
        with contextlib.suppress(OSError):  # a full disk, once more
            log.close()


class _LogFile(logging.FileHandler):
    """The file; a full disk loses lines and nothing else."""

    def __init__(self, path: Path, encoding: str, errors: str) -> None:
        super().__init__(path, encoding=encoding, errors=errors)
        self.setFormatter(_Plain("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ"))

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OWN

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: there is no better place than the file."""

    def say(self, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
        """Write a line that nobody else is to hear."""
        self.handle(logging.LogRecord("bench", level, "", 0, message, None, exc_info))


class _Plain(logging.Formatter):
    """UTC, and no character that could steer the terminal of who reads it."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return to_printable(super().format(record))


class _LoggedProgress:
    """Notes an item's steps and passes them on."""

    def __init__(self, log: _LogFile, progress: "Progress") -> None:
        self._log = log
        self._progress = progress
        self._what = ""
        self._noted = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        self._progress(what, done, total)
        now = time.monotonic()
        if what != self._what or done == total or now - self._noted >= STEP_EVERY_S:
            self._what, self._noted = what, now
            self._log.say(f"{what} {done}/{total}")


@contextlib.contextmanager
def _capture_logging(log: _LogFile) -> Iterator[None]:
    """Let a log hear all loggers and the Python warnings within the block."""
    own = [logging.getLogger(name) for name in OWN]
    levels = [logger.level for logger in own]
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        log.say(f"{filename}:{lineno}: {category.__name__}: {message}", logging.WARNING)
        shown(message, category, filename, lineno, file, line)

    for logger in own:
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(log)
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.getLogger().removeHandler(log)
        for logger, level in zip(own, levels, strict=True):
            logger.setLevel(level)
