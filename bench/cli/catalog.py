"""``bench list`` and ``bench show``: the parts and suites there are."""

import json
from typing import Annotated

import typer

from bench.catalog.parts import COMPOSED, catalog_axes, locate_part, names_on_axis
from bench.cli import completion
from bench.errors import BenchError, unknown_name_error
from bench.text import to_one_line


def list_parts(
    axis: Annotated[
        str | None,
        typer.Argument(
            metavar="AXIS",
            help="dataset, attack, backbone, weighting, defense, regime or suite.",
            show_default="all",
            autocompletion=completion.axis_completer("suite"),
        ),
    ] = None,
) -> None:
    """List the catalog: every part with its paper, and the suites."""
    from tabulate import tabulate

    if axis not in (None, "suite", *catalog_axes()):
        raise unknown_name_error("axis", str(axis), ("suite", *catalog_axes()))
    for name in catalog_axes() if axis is None else (axis,):
        if name == "suite":
            continue
        rows = [(to_one_line(part), *summarize_part(name, part)) for part in sorted(names_on_axis(name))]
        widths = [None, 60, 60]
        print(tabulate(rows, (name, "what it is", "source"), "rounded_grid", maxcolwidths=widths) + "\n")
        if name in COMPOSED:
            print(f"several together, applied from left to right: {name} FIRST+SECOND\n")
    if axis in (None, "suite"):
        from bench.suites import describe_suites

        headers = ("suite", "what it is")
        print(tabulate(describe_suites(), headers, "rounded_grid", maxcolwidths=[None, 100]))


def summarize_part(axis: str, part: str) -> tuple[str, str]:
    """Return a part's summary and source; for a broken part of another package, the error."""
    from bench.catalog.description import describe_part

    try:
        description = describe_part(axis, part)
    except BenchError as error:
        return to_one_line(f"cannot be read: {error}"), ""
    return description.summary, description.source


def show_part(
    axis: Annotated[
        str,
        typer.Argument(
            metavar="AXIS",
            help="dataset, attack, backbone, weighting, defense or regime; or suite-schema.",
            autocompletion=completion.axis_completer("suite-schema"),
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The name of the part.", autocompletion=completion.complete_part_of_axis
        ),
    ] = "",
) -> None:
    """Show one part: what it does, its paper, its parameters and their defaults.

    `bench show suite-schema` prints the JSON Schema of suite files, for editors that check and complete them.
    """
    if axis == "suite-schema":
        from bench.engine.planning.suite_file import suite_schema

        print(json.dumps(suite_schema(), indent=2))
        return
    if axis in catalog_axes() and not name:
        raise BenchError(f"give the name of a part; `bench list {axis}` lists them")
    parts = name.split("+") if axis in COMPOSED else [name]
    print("\n\n".join(render_part(axis, part.strip()) for part in parts))


def render_part(axis: str, name: str) -> str:
    """Return the description of one part as text."""
    from tabulate import tabulate

    from bench.catalog.description import describe_part

    description = describe_part(axis, name)
    parameters = "no parameters"
    if description.parameters:
        rows = [(field.name, field.type, field.default, field.meaning) for field in description.parameters]
        headers, widths = ("parameter", "type", "default", "meaning"), [None, 34, None, 70]
        parameters = tabulate(rows, headers, "simple", maxcolwidths=widths, disable_numparse=True)
    return f"{axis} {name}  ({locate_part(axis, name)})\n\n{description.docstring}\n\n{parameters}"
