"""Build parts from their names and parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib import import_module
from typing import Any

from bench.catalog.choice import Choice
from bench.catalog.parts import COMPOSED, REPLACED_VARIABLES, REQUIRED_VARIABLES, catalog_entries, locate_part
from bench.errors import BenchError, describe_error, format_input, name_foreign_errors, unknown_name_error


def load_part_class(axis: str, name: str) -> Any:
    """Import and return a part's class."""
    module, _, class_name = locate_part(axis, name).partition(":")
    try:
        return getattr(import_module(module), class_name)
    except (Exception, SystemExit) as error:  # a module from outside may raise anything
        where = f"{axis} {name!r} from {module}:{class_name}"
        raise BenchError(f"cannot load {where}: {describe_error(error)}") from error


def build_part(axis: str, choice: Choice | str, defaults: Mapping[str, Any] | None = None) -> Any:
    """Build a part from its name and parameters.

    Args:
        axis: the axis of the part.
        choice: the part, or a composition.
        defaults: parameters of a single part that its choice does not give.

    Raises:
        BenchError: for an unknown axis, name or parameter, or a value of the wrong type or range.
    """
    choice = Choice.parse(choice) if isinstance(choice, str) else choice
    if choice.parts:
        return compose_parts(axis, choice, [build_part(axis, part) for part in choice.parts])
    part_class, owner = load_part_class(axis, choice.name), f"{axis} {choice.name!r}"
    for variable in REQUIRED_VARIABLES[axis]:
        if not hasattr(part_class, variable):
            replaced, how = REPLACED_VARIABLES.get(variable, (variable, ""))
            hint = f"; it has replaced {replaced!r}: {how}" if hasattr(part_class, replaced) else ""
            raise BenchError(f"{owner} ({part_class.__name__}) has no class variable {variable!r}{hint}")
    params = {**(defaults or {}), **dict(choice.params)}
    model = {} if choice.name in catalog_entries(axis) else {"model": choice.name.partition(":")[2]}
    types = {field.name: str(field.type) for field in fields(part_class) if field.name not in model}
    for key, value in params.items():
        if key not in types:
            raise unknown_name_error(f"parameter of {owner}:", key, types)
        if isinstance(value, bool) and "bool" not in types[key]:  # pydantic takes true for a number
            raise BenchError(f"{owner}: {key} = {value} is refused: it is not a number")
    part = build_validated(part_class, {**params, **model}, owner)
    for key in params:
        value = getattr(part, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise BenchError(f"{owner}: {key} = {value} is refused: it is not finite")
    return part


def compose_parts(axis: str, choice: Choice, parts: Sequence[Any]) -> Any:
    """Return one part that applies several parts of an axis in order.

    Raises:
        BenchError: if parts of this axis, or these parts, cannot be composed.
    """
    if axis not in COMPOSED:
        raise BenchError(f"{axis} {choice.label!r} is refused: only a {', '.join(COMPOSED)} can be composed")
    module, _, class_name = COMPOSED[axis].partition(":")
    return getattr(import_module(module), class_name)(tuple(parts))


def build_validated(dataclass: Any, params: Mapping[str, Any], owner: str) -> Any:
    """Build a dataclass from parameters that are checked by type and by range.

    Raises:
        BenchError: with the owner, the value and the reason.
    """
    from pydantic import TypeAdapter, ValidationError

    with name_foreign_errors(f"cannot build {owner}"):
        try:
            return TypeAdapter(dataclass).validate_python(params)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            given = format_input(first["input"])
            raise BenchError(f"{owner}: {key} = {given} is refused: {first['msg']}") from error


def part_settings(choice: Choice, part: Any) -> dict[str, Any]:
    """Return everything about a part that can change a result, as JSON values."""
    if choice.parts:
        settings = [part_settings(*pair) for pair in zip(choice.parts, part.parts, strict=True)]
        return {"name": choice.name, "version": part.version, "params": {"parts": settings}}
    return {"name": choice.name, "version": part.version, "params": asdict(part)}
