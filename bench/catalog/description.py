"""Read what a part is, its paper and its parameters from its source file, without importing it."""

import ast
import dataclasses
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from bench.catalog.table import locate_part
from bench.errors import BenchError


@dataclasses.dataclass(frozen=True)
class ParameterDescription:
    """A field of a part, as its source spells it."""

    name: str
    type: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class PartDescription:
    """What a part's source says of it.

    Attributes:
        summary: first line of the docstring.
        source: the paper, from the docstring's ``Source:`` line.
        docstring: all of it but the section on attributes.
        parameters: every field, what it inherits from a class of the same file included.
    """

    summary: str
    source: str
    docstring: str
    parameters: tuple[ParameterDescription, ...]


def describe_part(axis: str, name: str) -> PartDescription:
    """Read a part's docstring and fields from its source, without importing it."""
    module, _, attribute = locate_part(axis, name).partition(":")
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise BenchError(f"cannot find {module}, where {axis} {name!r} should be")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if attribute in classes:
        return _describe_class(attribute, classes)
    raise BenchError(f"{module} has no class {attribute}, which {axis} {name!r} should be")


def _describe_class(name: str, classes: Mapping[str, ast.ClassDef]) -> PartDescription:
    docstring = ast.get_docstring(classes[name]) or ""
    source = re.search(r"^Source: (.+?)(?:\n\s*\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return PartDescription(
        summary=docstring.partition("\n")[0],
        source=" ".join(source.group(1).split()) if source else "",
        docstring=docstring.partition("\nAttributes:")[0].rstrip(),
        parameters=tuple(_parameters(name, classes).values()),
    )


def _parameters(name: str, classes: Mapping[str, ast.ClassDef]) -> dict[str, ParameterDescription]:
    """Return the fields in a dataclass's order; those it has from a class of the same file come first."""
    found: dict[str, ParameterDescription] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= _parameters(base.id, classes)
    meanings = attribute_meanings(ast.get_docstring(classes[name]) or "")
    for item in classes[name].body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            field, annotation = item.target.id, ast.unparse(item.annotation)
            if "ClassVar" not in annotation:
                inherited = found[field].meaning if field in found else ""
                meaning = meanings.get(field, inherited)
                found[field] = ParameterDescription(field, annotation, ast.unparse(item.value), meaning)
    return found


def attribute_meanings(docstring: str) -> dict[str, str]:
    """Return name → meaning from the "Attributes:" section of a docstring without indentation."""
    section = docstring.partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
