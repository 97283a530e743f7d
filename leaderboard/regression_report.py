"""The result of a check as text and as JUnit XML."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from xml.etree import ElementTree

from bench.table import format_table
from bench.text import to_printable
from leaderboard.formatting import NO_VALUE, format_count, format_number, markdown_table
from leaderboard.reference import COSTS
from leaderboard.regression import Change


def render_changes(changes: Iterable[Change], width: int | None = None) -> str:
    """Return the numbers that changed as a table, and how many are exactly as in the reference.

    The table is markdown, or fits a terminal of a width.
    """
    changes = list(changes)
    rows = [
        {
            "item": change.item,
            "what": change.quantity,
            "reference": format_number(change.reference),
            "now": format_number(change.now),
            "tolerance": _format_tolerance(change),
            "verdict": change.verdict,
        }
        for change in changes
        if change.verdict != "ok"
    ]
    numbers = [change for change in changes if change.quantity not in COSTS and change.now is not None]
    equal = sum(change.now == change.reference for change in numbers)
    exact = f"{equal} of {format_count(len(numbers), 'number')} without costs are exactly the same.\n"
    if not rows:
        return f"No changes: {len(changes)} numbers are as in the reference.\n{exact}"
    same = len(changes) - len(rows)
    if width is None:
        table = markdown_table(rows)
    else:
        table = format_table([list(row.values()) for row in rows], list(rows[0]), width, right=(2, 3, 4))
    return f"{table}\n\n{len(rows)} changed, {same} as in the reference.\n{exact}"


def _format_tolerance(change: Change) -> str:
    if change.tolerance is None:
        return NO_VALUE
    # A score may change in both directions, a cost only has an upper limit.
    return f"{'≤ ' if change.quantity in COSTS else '±'}{format_number(change.tolerance)}"


def render_junit(suite: str, changes: Sequence[Change]) -> str:
    """Return the check as JUnit XML, as systems for continuous integration read it.

    A test case is an item, a failure lists its numbers that fail. Text is escaped; characters that XML cannot
    hold are left out.
    """
    items = [(item, list(group)) for item, group in groupby(changes, key=lambda change: change.item)]
    failures = [(item, [change for change in group if change.fails]) for item, group in items]
    counts = {"tests": str(len(items)), "failures": str(sum(bool(failed) for _, failed in failures))}
    root = ElementTree.Element("testsuites", counts)
    suite_element = ElementTree.SubElement(root, "testsuite", {"name": to_printable(suite)} | counts)
    for item, failed in failures:
        names = {"classname": to_printable(suite), "name": to_printable(item)}
        case = ElementTree.SubElement(suite_element, "testcase", names)
        if failed:
            message = f"{format_count(len(failed), 'number')} changed"
            lines = ElementTree.SubElement(case, "failure", {"message": message, "type": failed[0].verdict})
            lines.text = to_printable("\n".join(map(_describe_change, failed)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _describe_change(change: Change) -> str:
    if change.now is None:
        return f"{change.quantity}: {change.verdict}"
    return (
        f"{change.quantity}: {format_number(change.reference)} in the reference, "
        f"{format_number(change.now)} now, tolerance {_format_tolerance(change)}"
    )
