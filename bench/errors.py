"""The error that a user can fix, the hint at a misspelled name, and the text of any exception or value."""

import difflib
import reprlib
from collections.abc import Iterable
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
    # Comparing two texts takes a time that grows with the square of their length.
    similar = difflib.get_close_matches(name, names, n=1) if len(name) <= MAX_SHOWN else []
    hint = f"did you mean {similar[0]!r}?" if similar else f"there are: {', '.join(names) or 'none'}."
    return BenchError(f"unknown {what} {format_input(name)}; {hint}")


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
