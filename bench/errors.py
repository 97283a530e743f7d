"""The error that a user can fix, the hint at a misspelled name, and errors of code from outside."""

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.text import escape_bytes

MAX_SHOWN = 120
"""Characters of a value that a message shows; the rest of a longer one is left out."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = MAX_SHOWN


class BenchError(Exception):
    """An error that the user can fix. Its message is one sentence that names what is wrong, and where.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown_name_error(what: str, name: str, known: Iterable[str]) -> BenchError:
    """Return the error for a name that is not among the known ones. It suggests the most similar one."""
    names = sorted(known)
    similar = find_similar_name(name, names)
    hint = f"did you mean {similar!r}?" if similar else f"there are: {', '.join(names) or 'none'}."
    return BenchError(f"unknown {what} {format_input(name)}; {hint}")


def find_similar_name(name: str, known: Sequence[str], similarity: float = 0.6) -> str | None:
    """Return the known name that is most similar to a misspelled one, None if none is similar enough.

    Of a long name only the beginning is compared: the time grows with the square of the length.
    """
    return next(iter(difflib.get_close_matches(name[:MAX_SHOWN], known, n=1, cutoff=similarity)), None)


@contextmanager
def name_foreign_errors(what: str) -> Iterator[None]:
    """Raise a `BenchError` that begins with ``what`` for any other error: code from outside may raise all.

    ``SystemExit`` counts as one, ``KeyboardInterrupt`` does not.
    """
    try:
        yield
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        raise BenchError(f"{what}: {describe_error(error)}") from error


def format_input(value: Any) -> str:
    """Return a value that a user gave as a message shows it, however long or deeply nested it is."""
    return _REPR.repr(value)


def error_text(error: BaseException) -> str:
    """Return an exception's text, empty if it has none or cannot make one.

    Code from outside raises exceptions of its own, whose ``__str__`` may fail as well. Bytes of a file name
    that are no text are escaped, so that the text can be stored.
    """
    try:
        return escape_bytes(str(error))
    except (Exception, SystemExit):
        return ""


def describe_error(error: BaseException) -> str:
    """Return the type and the text of an exception in one line; the text alone of a `BenchError`."""
    name, text = type(error).__name__, " ".join(error_text(error).split())
    return text if isinstance(error, BenchError) else f"{name}: {text}" if text else name
