"""The one exception a person is meant to read, the hint at a misspelt name, and text that is safe to show."""

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Something the user can put right, said in one sentence that names what and where.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> BenchError:
    """Return the error for a name that is not among the known ones, with the nearest as a hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}."
    return BenchError(f"unknown {what} {name!r}; {hint}")


def one_line(text: str) -> str:
    """Return a text with blanks for what is not printable, lest it break the line or steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def printable(text: str) -> str:
    """Return a text in which nothing but its line ends is not printable."""
    return "\n".join(map(one_line, text.split("\n")))
