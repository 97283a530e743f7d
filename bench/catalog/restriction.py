"""``AXIS=a,b``: the values of an axis that ``--only`` keeps."""

from collections.abc import Callable, Collection

from bench.catalog.choice import Choice, split_outside_brackets
from bench.errors import BenchError, format_input, unknown_name_error
from bench.record import AXES


def parse_restriction(
    text: str, known_names: Callable[[str], Collection[str]], of: str
) -> tuple[str, set[str]]:
    """Return the axis and the values of ``AXIS=a,b``.

    Args:
        text: a value is a label, or the name of a part, which stands for all its variants.
        known_names: maps an axis to all names of its values.
        of: what has these values, for the messages, such as ``suite 'quick'``.

    Raises:
        BenchError: for another form, and for an axis or a value that is not known.
    """
    axis, equals, listed = text.partition("=")
    axis = axis.strip()
    if not equals:
        raise BenchError(f"cannot read --only {format_input(text)}; write AXIS=a,b, such as attack=em,tap")
    if axis not in AXES:
        raise unknown_name_error("axis in --only", axis, AXES)
    pieces = [piece.strip() for piece in split_outside_brackets(listed, ",")]
    wanted = pieces if axis == "seed" else [str(Choice.parse(piece)) for piece in pieces]
    known = known_names(axis)
    for label in wanted:
        if label not in known:
            raise unknown_name_error(f"{axis} in --only (of {of}):", label, known)
    return axis, set(wanted)
