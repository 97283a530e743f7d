"""The names that a shell can complete: suites, axes and parts. None of this imports torch."""

from collections.abc import Callable

import typer

from bench.catalog.parts import COMPOSED, catalog_axes, catalog_entries
from bench.suites import describe_suites


def complete_suite(incomplete: str) -> list[tuple[str, str]]:
    """Return the suites whose name starts with the incomplete word, with their descriptions."""
    return [(name, text) for name, text in describe_suites() if name.startswith(incomplete)]


def axis_completer(*others: str) -> Callable[[str], list[str]]:
    """Return a function that completes the axes and other words."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in (*catalog_axes(), *others) if name.startswith(incomplete)]

    return complete


def complete_axis_or_part(incomplete: str) -> list[str]:
    """Return what may come first after `bench conform`: the axes and the attacks."""
    return [*axis_completer()(incomplete), *complete_part("attack", incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    """Return the datasets whose name starts with the incomplete word."""
    return complete_part("dataset", incomplete)


def complete_part_of_axis(context: typer.Context, incomplete: str) -> list[str]:
    """Return the parts on the axis that the command's argument or option ``axis`` names."""
    return complete_part(str(context.params.get("axis") or "attack"), incomplete)


def complete_axis_values(incomplete: str) -> list[str]:
    """Return ``AXIS=``, and after that ``AXIS=a,b`` with the last name completed."""
    axis, equals, values = incomplete.partition("=")
    if not equals:
        return [f"{name}=" for name in axis_completer()(axis)]
    done, comma, last = values.rpartition(",")
    return [f"{axis}={done}{comma}{name}" for name in complete_part(axis, last)]


def complete_part(axis: str, incomplete: str) -> list[str]:
    """Return the parts of an axis that complete a word; in a composed part, the last name is completed."""
    if axis not in catalog_axes():
        return []
    done, plus, last = incomplete.rpartition("+") if axis in COMPOSED else ("", "", incomplete)
    return [f"{done}{plus}{name}" for name in sorted(catalog_entries(axis)) if name.startswith(last)]
