"""The error that a user can fix, and the hint at a misspelled name."""

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Something the user can put right, said in one sentence that names what and where.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown_name_error(what: str, name: str, known: Iterable[str]) -> BenchError:
    """Return the error for a name that is not among the known ones, with the nearest as a hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}."
    return BenchError(f"unknown {what} {name!r}; {hint}")
