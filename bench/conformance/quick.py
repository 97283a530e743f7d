"""Build parts with the parameters that make them quick to check."""

from collections.abc import Mapping
from typing import Any

from bench.catalog.build import build_part, load_part_class
from bench.catalog.choice import Choice


def quick_params(axis: str, choice: Choice) -> Mapping[str, Any]:
    """Return the class variable ``quick_params`` of a part; empty if it has none, and for several parts."""
    if choice.parts:
        return {}
    params: Mapping[str, Any] = getattr(load_part_class(axis, choice.name), "quick_params", {})
    return params


def build_quick_part(axis: str, choice: Choice | str) -> Any:
    """Build a part with its quick parameters as defaults below those of the choice."""
    choice = Choice.parse(choice) if isinstance(choice, str) else choice
    return build_part(axis, choice, quick_params(axis, choice))
