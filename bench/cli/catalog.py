"""``bench list`` and ``bench show``: the parts and suites there are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from bench.catalog.parts import COMPOSED, catalog_axes, locate_part, names_on_axis
from bench.cli import completion, options
from bench.cli.json_output import print_json
from bench.cli.run_folder import print_result
from bench.errors import BenchError, unknown_name_error
from bench.table import fill_paragraphs, format_table, terminal_width
from bench.text import to_one_line

WIDE = 110
"""Columns of a terminal from which a table can have more than two columns of prose."""

PartRow = tuple[str, str, str]
"""A part's name, its summary and its source."""


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
    json_: options.JsonOption = False,
) -> None:
    """List the catalog: every part with its paper, and the suites."""
    from bench.suites import describe_suites

    if axis not in (None, "suite", *catalog_axes()):
        raise unknown_name_error("axis", str(axis), ("suite", *catalog_axes()))
    axes = [name for name in catalog_axes() if axis in (None, name)]
    parts = {name: summarize_axis(name) for name in axes}
    suites = describe_suites() if axis in (None, "suite") else []
    if json_:
        listed = [
            {"axis": name, "name": part, "summary": summary, "source": source}
            for name, rows in parts.items()
            for part, summary, source in rows
        ]
        print_json({"parts": listed, "suites": [{"name": name, "summary": text} for name, text in suites]})
        return
    print_result("\n\n".join(render_catalog(parts, suites, terminal_width())))


def render_catalog(
    parts: Mapping[str, Sequence[PartRow]], suites: Sequence[tuple[str, str]], width: int | None
) -> Iterator[str]:
    """Yield the table of every axis, and that of the suites, for a terminal of a width."""
    for axis, rows in parts.items():
        headers: tuple[str, ...] = (axis, "what it is", "source")
        shown: list[tuple[str, ...]] = list(rows)
        if width is not None and width < WIDE:
            headers = (axis, "what it is, and its source")
            shown = [(name, "\n".join(filter(None, (summary, source)))) for name, summary, source in rows]
        yield format_table(shown, headers, width)
        if axis in COMPOSED:
            yield fill_paragraphs(f"several together, applied from left to right: {axis} FIRST+SECOND", width)
    if suites:
        yield format_table(suites, ("suite", "what it is"), width)


def summarize_axis(axis: str) -> list[PartRow]:
    """Return name, summary and source of every part of an axis."""
    return [(to_one_line(part), *summarize_part(axis, part)) for part in sorted(names_on_axis(axis))]


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
    json_: options.JsonOption = False,
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
    names = [part.strip() for part in (name.split("+") if axis in COMPOSED else [name])]
    if json_:
        print_json({"parts": [describe_as_mapping(axis, part) for part in names]})
        return
    width = terminal_width()
    print_result("\n\n".join(render_part(axis, part, width) for part in names))


def describe_as_mapping(axis: str, name: str) -> dict[str, object]:
    """Return the description of one part, as JSON shows it."""
    from bench.catalog.description import describe_part

    description = asdict(describe_part(axis, name))
    return {"axis": axis, "name": name, "location": locate_part(axis, name), **description}


def render_part(axis: str, name: str, width: int | None = None) -> str:
    """Return the description of one part as text, for a terminal of a width."""
    from bench.catalog.description import describe_part

    description = describe_part(axis, name)
    parameters = "no parameters"
    if description.parameters:
        rows: list[tuple[str, ...]]
        headers: tuple[str, ...] = ("parameter", "type", "default", "meaning")
        rows = [(each.name, each.type, each.default, each.meaning) for each in description.parameters]
        if width is not None and width < WIDE:
            headers = ("parameter", "type, default and meaning")
            rows = [(each, f"{type_} = {default}\n{meaning}") for each, type_, default, meaning in rows]
        parameters = format_table(rows, headers, width, style="simple")
    title = f"{axis} {name}  ({locate_part(axis, name)})"
    return "\n\n".join((title, fill_paragraphs(description.docstring, width), parameters))
