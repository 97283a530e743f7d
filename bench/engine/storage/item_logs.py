"""One log file per item: everything that was logged while a worker did it.

    DIR/logs/KEY.log    appended to when the item is retried

Every line is written to the file at once: the log of a killed worker ends where the worker did.
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
from typing import TYPE_CHECKING, Any

from bench.files import require_file
from bench.text import to_printable

if TYPE_CHECKING:
    from bench.values import Progress

OWN = ("bench", "baselines", "mtlue")
"""Packages that are logged from level INFO; all others from WARNING."""

STEP_EVERY_S = 10.0
"""Steps of one kind are logged at most this often; the first and the last one always are."""

TAIL_BYTES = 2**16
"""Most bytes that are read from the end of a log."""


def log_path(out: Path, key: str) -> Path:
    """Return the log file of an item in a run's folder."""
    return out / "logs" / f"{key}.log"


def read_tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a log; none if there is no log."""
    try:
        with require_file(path).open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


@contextlib.contextmanager
def log_item(out: Path, key: str, label: str, progress: "Progress") -> Iterator["Progress"]:
    """Log what happens in the block to the item's log file, with its start, its steps and its end.

    Logging and warnings are restored afterwards. If the file cannot be written, nothing is logged.

    Args:
        out: the run's folder.
        key: the item's key.
        label: the item in one line.
        progress: called with every step.

    Yields:
        A callback that logs a step and passes it to ``progress``.
    """
    try:
        path = log_path(out, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            require_file(path)
        log = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield progress
        return
    start = time.perf_counter()
    log.write_line(f"started: {label} (process {os.getpid()} on {platform.node()})")
    try:
        with _capture_logging(log):
            yield _log_progress(log, progress)
    except BaseException:
        log.write_line(f"failed after {time.perf_counter() - start:.1f} s", logging.ERROR, sys.exc_info())
        raise
    else:
        log.write_line(f"done in {time.perf_counter() - start:.1f} s")
    finally:
        with contextlib.suppress(OSError):  # a full disk, once more
            log.close()


class _LogFile(logging.FileHandler):
    """The file; if the disk is full, only lines are lost."""

    def __init__(self, path: Path, encoding: str, errors: str) -> None:
        super().__init__(path, encoding=encoding, errors=errors)
        self.setFormatter(
            _PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        )

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OWN

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore the error: there is no better place to report it than this file."""

    def write_line(self, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
        """Write a line to this file only."""
        self.handle(logging.LogRecord("bench", level, "", 0, message, None, exc_info))


class _PlainFormatter(logging.Formatter):
    """UTC times, and no character that could control the reader's terminal."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return to_printable(super().format(record))


def _log_progress(log: _LogFile, progress: "Progress") -> "Progress":
    """Return a callback that logs an item's steps and passes them on."""
    last_what, logged_at = "", 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last_what, logged_at
        progress(what, done, total)
        now = time.monotonic()
        if what != last_what or done == total or now - logged_at >= STEP_EVERY_S:
            last_what, logged_at = what, now
            log.write_line(f"{what} {done}/{total}")

    return report


@contextlib.contextmanager
def _capture_logging(log: _LogFile) -> Iterator[None]:
    """Send all loggers' records and Python warnings within the block to a log."""
    own = [logging.getLogger(name) for name in OWN]
    levels = [logger.level for logger in own]
    showwarning = warnings.showwarning

    def log_and_show(*details: Any, **more: Any) -> None:
        message, category, filename, lineno = details[:4]
        log.write_line(f"{filename}:{lineno}: {category.__name__}: {message}", logging.WARNING)
        showwarning(*details, **more)

    for logger in own:
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(log)
    warnings.showwarning = log_and_show
    try:
        yield
    finally:
        warnings.showwarning = showwarning
        logging.getLogger().removeHandler(log)
        for logger, level in zip(own, levels, strict=True):
            logger.setLevel(level)
