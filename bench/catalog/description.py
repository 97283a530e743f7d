"""Read a part's summary, paper and parameters from its source file, without importing it."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.catalog.parts import locate_part
from bench.errors import BenchError, describe_error


@dataclass(frozen=True)
class ParameterDescription:
    """A field of a part, as its source has it."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class PartDescription:
    """What the source of a part says about it.

    Attributes:
        summary: first line of the docstring.
        source: the paper, from the docstring's ``Source:`` line.
        docstring: the docstring without its section "Attributes:".
        parameters: every field, also those inherited from a class of the same file.
    """

    summary: str
    source: str
    docstring: str
    parameters: tuple[ParameterDescription, ...]


def describe_part(axis: str, name: str) -> PartDescription:
    """Read a part's docstring and fields from its source, without importing it.

    Raises:
        BenchError: for an unknown axis or name, or if the module or the class does not exist.
    """
    module, _, class_name = locate_part(axis, name).partition(":")
    tree = _parse_module(module, f"{axis} {name!r}")
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        raise BenchError(f"{module} has no class {class_name}, which {axis} {name!r} should be")
    docstring = ast.get_docstring(classes[class_name]) or ""
    source = re.search(r"^Source: (.+?)(?:\n\s*\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return PartDescription(
        summary=docstring.partition("\n")[0],
        source=" ".join(source.group(1).split()) if source else "",
        docstring=docstring.partition("\nAttributes:")[0].rstrip(),
        parameters=tuple(_list_parameters(class_name, classes).values()),
    )


def _parse_module(module: str, owner: str) -> ast.Module:
    """Return the syntax tree of the module that should have a part; only the packages above it are imported.

    Raises:
        BenchError: if it does not exist or cannot be parsed.
    """
    try:
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            return ast.parse(Path(spec.origin).read_bytes())
    except ModuleNotFoundError:
        pass
    except (Exception, SystemExit) as error:  # a package from outside may raise anything
        raise BenchError(f"cannot read {module}, where {owner} should be: {describe_error(error)}") from error
    raise BenchError(f"cannot find {module}, where {owner} should be")


def attribute_meanings(docstring: str) -> dict[str, str]:
    """Return name → meaning from the section "Attributes:" of a docstring without indentation."""
    section = docstring.partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _list_parameters(class_name: str, classes: Mapping[str, ast.ClassDef]) -> dict[str, ParameterDescription]:
    """Return the fields in a dataclass's order: those inherited from a class of the same file come first."""
    node = classes[class_name]
    parameters: dict[str, ParameterDescription] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            parameters |= _list_parameters(base.id, classes)
    meanings = {name: parameter.meaning for name, parameter in parameters.items()}
    meanings |= attribute_meanings(ast.get_docstring(node) or "")
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            name, annotation, default = item.target.id, ast.unparse(item.annotation), ast.unparse(item.value)
            if "ClassVar" not in annotation:
                parameters[name] = ParameterDescription(name, annotation, default, meanings.get(name, ""))
    return parameters
