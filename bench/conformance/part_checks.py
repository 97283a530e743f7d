"""The checks of a part of any axis."""

import dataclasses
import json
import re
from typing import Any

from bench.catalog.build import build_part, part_settings
from bench.catalog.choice import Choice
from bench.catalog.description import describe_part
from bench.catalog.parts import REQUIRED_VARIABLES, catalog_entries
from bench.conformance.part import PROTOCOLS, Check, ContractError, PartUnderTest, build_quick_part
from bench.engine.planning.partial_protection import COMMON_PARAMETERS
from bench.values import DEFAULT_EPSILON

COMPOSED = "it combines several parts; check each of them alone"


def is_a_frozen_dataclass(tested: PartUnderTest, _: str) -> str | None:
    """Check what the catalog, the suites and the keys rely on."""
    if tested.choice.parts:
        return COMPOSED
    kind, fields = tested.kind, {field.name: field for field in dataclasses.fields(tested.kind)}
    if not kind.__dataclass_params__.frozen:
        raise ContractError("it is not frozen; write @dataclass(frozen=True)")
    for name in REQUIRED_VARIABLES[tested.axis]:
        wanted = {"version": "int", "recipe": None, "norm": "Norm | None"}.get(name, "bool")
        value = getattr(kind, name, ...)
        fits = value in (None, *DEFAULT_EPSILON) if name == "norm" else type(value).__name__ == wanted
        if wanted is not None and (name in fields or not fits):
            raise ContractError(f"it has no class variable {name}: ClassVar[{wanted}]")
    if kind.version < 1:
        raise ContractError(f"its version is {kind.version}; the first one is 1")
    for name, field in fields.items():
        if tested.axis == "attack" and name in COMMON_PARAMETERS:
            raise ContractError(f"its parameter {name!r} has the name of one that every attack takes")
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in _family_fields(tested):
            raise ContractError(f"its parameter {name!r} has no default")
    if not isinstance(tested.part, PROTOCOLS[tested.axis]):
        raise ContractError(f"it lacks something of the protocol {tested.axis.capitalize()} of bench/api.py")
    if hash(build_quick_part(tested.axis, tested.choice)) != hash(tested.part):
        raise ContractError("built twice, it has two hashes")
    return None


def can_be_written_into_a_key(tested: PartUnderTest, _: str) -> str | None:
    """Check that the part can be rebuilt from its settings and compares equal."""
    if tested.choice.parts:
        return COMPOSED
    part = build_part(tested.axis, tested.choice)
    try:
        written = json.dumps(part_settings(tested.choice, part), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(f"its parameters cannot be written into a key: {error}") from error
    params: dict[str, Any] = json.loads(written)["params"]
    kept = {
        name: value
        for name, value in params.items()
        if value is not None and name not in _family_fields(tested)
    }
    if build_part(tested.axis, Choice(tested.choice.name, tuple(kept.items()))) != part:
        raise ContractError("built again from the parameters in its key, it is not the same")
    return None


def is_documented(tested: PartUnderTest, _: str) -> str | None:
    """Check the docstring, as `bench list` and `bench show` read it from the source."""
    if tested.choice.parts:
        return COMPOSED
    description = describe_part(tested.axis, tested.choice.name)
    if not description.summary:
        raise ContractError("it has no docstring")
    if not description.source and "Not from a paper" not in description.docstring:
        raise ContractError("its docstring has no line 'Source: ...', and does not say 'Not from a paper'")
    described = "".join((kind.__doc__ or "").partition("Attributes:")[2] for kind in tested.kind.__mro__)
    for field in dataclasses.fields(tested.kind):
        if field.name not in _family_fields(tested) and not re.search(
            rf"^\s*{field.name}: ", described, re.MULTILINE
        ):
            raise ContractError(f"its parameter {field.name!r} is not described under 'Attributes:'")
    return None


def _family_fields(tested: PartUnderTest) -> tuple[str, ...]:
    """Return the field that the name of a part of a family sets."""
    return () if tested.choice.name in catalog_entries(tested.axis) else ("model",)


PART_CHECKS = (
    Check("is a frozen dataclass", is_a_frozen_dataclass),
    Check("can be written into a key", can_be_written_into_a_key),
    Check("says what it is and where it is from", is_documented),
)
