"""The error that a user can fix, and the hint at a misspelled name."""

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """An error that the user can fix. Its message is one sentence that names what is wrong, and where.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown_name_error(what: str, name: str, known: Iterable[str]) -> BenchError:
    """Return the error for a name that is not among the known ones. It suggests the most similar one."""
    names = sorted(known)
    similar = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {similar[0]!r}?" if similar else f"there are: {', '.join(names) or 'none'}."
    return BenchError(f"unknown {what} {name!r}; {hint}")
