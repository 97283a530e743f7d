"""Build parts from their names and parameters."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from bench.catalog.choice import Choice
from bench.catalog.table import COMPOSED, REQUIRED, catalog_entries, locate_part
from bench.errors import BenchError, unknown_name_error


def load_part_class(axis: str, name: str) -> Any:
    """Import and return a part's class."""
    module, _, attribute = locate_part(axis, name).partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"cannot load {axis} {name!r} from {module}:{attribute}: {error}") from error


def build_part(axis: str, choice: Choice | str, defaults: Mapping[str, Any] | None = None) -> Any:
    """Build a part from its name and parameters, checked by name and by type.

    Args:
        axis: the shelf.
        choice: the part, with overrides, or several.
        defaults: overrides below those of the choice, from a suite's ``[params]``; of one part only.

    Raises:
        BenchError: for an unknown axis, name or parameter, or a value of the wrong type or range.
    """
    choice = Choice.parse(choice) if isinstance(choice, str) else choice
    if choice.parts:
        return compose_parts(axis, choice, [build_part(axis, part) for part in choice.parts])
    kind = load_part_class(axis, choice.name)
    for variable in REQUIRED.get(axis, ("version",)):
        if not hasattr(kind, variable):
            raise BenchError(f"{axis} {choice.name!r} ({kind.__name__}) has no class variable {variable!r}")
    params = {**(defaults or {}), **dict(choice.params)}
    model = {} if choice.name in catalog_entries(axis) else {"model": choice.name.partition(":")[2]}
    known = [f.name for f in dataclasses.fields(kind) if f.name not in model]
    for key, value in params.items():
        if key not in known:
            raise unknown_name_error(f"parameter of {axis} {choice.name!r}:", key, known)
        # Pydantic takes true for a number.
        if isinstance(value, bool) and "bool" not in str(kind.__dataclass_fields__[key].type):
            raise BenchError(f"{axis} {choice.name!r}: {key} = {value!r} is refused: it is not a number")
    part = build_validated(kind, {**params, **model}, f"{axis} {choice.name!r}")
    for key in params:
        value = getattr(part, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise BenchError(f"{axis} {choice.name!r}: {key} = {value} is refused: it is not finite")
    return part


def compose_parts(axis: str, choice: Choice, parts: Sequence[Any]) -> Any:
    """Return the part that several of an axis make together.

    Raises:
        BenchError: when parts of this axis, or these, do not go together.
    """
    if axis not in COMPOSED:
        raise BenchError(f"{axis} {choice.label!r} is refused: only a {', '.join(COMPOSED)} can be composed")
    module, _, attribute = COMPOSED[axis].partition(":")
    return getattr(import_module(module), attribute)(tuple(parts))


def build_validated(kind: Any, params: Mapping[str, Any], who: str) -> Any:
    """Build a dataclass from parameters, checked by type and by range.

    Raises:
        BenchError: naming who refuses which value, and why.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(piece) for piece in first["loc"])
        raise BenchError(f"{who}: {where} = {first['input']!r} is refused: {first['msg']}") from error


def part_settings(choice: Choice, part: Any) -> dict[str, Any]:
    """Return everything about a part that can change a result, as JSON values."""
    if choice.parts:
        each = [part_settings(*pair) for pair in zip(choice.parts, part.parts, strict=True)]
        return {"name": choice.name, "version": part.version, "params": {"parts": each}}
    return {"name": choice.name, "version": part.version, "params": dataclasses.asdict(part)}
