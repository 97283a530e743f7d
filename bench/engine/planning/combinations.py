"""The combinations a suite asks for: matrix and include, without exclude and what ``--only`` omits."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.catalog.choice import Choice
from bench.catalog.parts import catalog_entries, locate_part
from bench.catalog.restriction import parse_restriction
from bench.engine.planning.suite_file import ALL, Suite
from bench.errors import BenchError, format_input
from bench.record import AXES

VICTIM_AXES = ("backbone", "weighting", "defense", "regime")
"""The axes a star varies one at a time."""


class Combination(NamedTuple):
    """One value of every axis, in the order of `AXES`."""

    dataset: Choice
    attack: Choice
    backbone: Choice
    weighting: Choice
    defense: Choice
    regime: Choice
    seed: int


MAX_COMBINATIONS = 1_000_000
"""Most combinations that are listed, before entries are excluded."""

Matrix = Mapping[str, Sequence[Any]]
"""Axis → its choices, or its seeds."""

Filter = Mapping[str, set[str]]
"""Axis → labels, or names that stand for all variants of a part; a combination must have one on each axis."""

Fits = Callable[[str, Choice, Choice], bool]
"""Whether a part of an axis can work with the tasks of a dataset."""


def list_combinations(suite: Suite, only: Sequence[str], fits: Fits) -> list[Combination]:
    """List what a suite asks for, in order; a combination may come twice.

    Args:
        suite: the suite.
        only: ``AXIS=a,b`` restrictions, by label or by name.
        fits: decides which value of an axis is the default on a dataset.

    Raises:
        BenchError: for an unknown axis or name, or if nothing is left.
    """
    _check_count(suite, sum(math.prod(map(len, values)) for values in map(_listed_values, suite.include)))
    matrix, included = _parse_matrix(suite), list(_parse_included(suite))
    restrictions = [_parse_restriction(text, suite.name, matrix, included) for text in only]
    exclusions = [_parse_exclusion(entry) for entry in suite.exclude]
    restricted = _restrict(matrix, restrictions, suite.star)
    _check_count(suite, len(included) + _count(restricted, suite.star))
    combine = _combine_star if suite.star else _combine_all
    combinations = [
        combination
        for combination in itertools.chain(combine(restricted, fits), _complete(included, matrix, fits))
        if not any(_passes(combination, excluded) for excluded in exclusions)
        and all(_passes(combination, wanted) for wanted in restrictions)
    ]
    if not combinations:
        raise BenchError(f"suite {suite.name!r} has no cell left")
    return combinations


def _parse_value(axis: str, value: str | int) -> Choice | int:
    if axis != "seed":
        return Choice.parse(str(value))
    if not isinstance(value, int):
        raise BenchError(f"a seed is a whole number, not {format_input(value)}")
    return value


def _parse_matrix(suite: Suite) -> Matrix:
    matrix: dict[str, Sequence[Any]] = {}
    for axis in AXES:
        values = suite.matrix.get(axis)
        if not values:
            raise BenchError(f"suite {suite.name!r}: [matrix] has no values for the axis {axis!r}")
        if values == ALL and axis != "seed":
            matrix[axis] = [Choice(name) for name in catalog_entries(axis)]
        else:
            listed = [values] if isinstance(values, str) else values
            matrix[axis] = [_parse_value(axis, value) for value in listed]
    return matrix


def _listed_values(entry: Mapping[str, Any]) -> list[list[str | int]]:
    """Return the values that an included entry lists on each of its axes."""
    return [value if isinstance(value, list) else [value] for value in entry.values()]


def _parse_included(suite: Suite) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values that an included entry lists."""
    for entry in suite.include:
        for values in itertools.product(*_listed_values(entry)):
            yield {axis: _parse_value(axis, value) for axis, value in zip(entry, values, strict=True)}


def _parse_exclusion(entry: Mapping[str, str | int]) -> Filter:
    """Return what an excluded entry filters by; a name that no part has is refused."""
    values = {axis: _parse_value(axis, value) for axis, value in entry.items()}
    for axis, value in values.items():
        if isinstance(value, Choice):
            for part in value.parts or (value,):
                locate_part(axis, part.name)
    return {axis: {str(value)} for axis, value in values.items()}


def _parse_restriction(
    text: str, suite: str, matrix: Matrix, included: Sequence[Mapping[str, Any]]
) -> Filter:
    """Return what ``AXIS=a,b`` filters by; what the suite does not have is refused."""

    def known_names(axis: str) -> set[str]:
        values = (*matrix[axis], *(entry[axis] for entry in included if axis in entry))
        return set[str]().union(*map(_names, values))

    axis, wanted = parse_restriction(text, known_names, f"suite {suite!r}")
    return {axis: wanted}


def _names(value: Choice | int) -> set[str]:
    """Return what a filter may call a value: its label, or the name that stands for all variants."""
    return {value.label, value.name} if isinstance(value, Choice) else {str(value)}


def _passes(combination: Combination, wanted: Filter) -> bool:
    return all(_names(getattr(combination, axis)) & labels for axis, labels in wanted.items())


def _restrict(matrix: Matrix, restrictions: Sequence[Filter], star: bool) -> Matrix:
    """Return the matrix without values that the restrictions filter out anyway.

    In a star, the values of a victim axis stay, since the first ones are the default.
    """
    return {
        axis: [
            value
            for value in values
            if (star and axis in VICTIM_AXES)
            or all(_names(value) & wanted[axis] for wanted in restrictions if axis in wanted)
        ]
        for axis, values in matrix.items()
    }


def _count(matrix: Matrix, star: bool) -> int:
    """Return the number of combinations of a matrix; of a star, the largest that it can be."""
    sizes = {axis: len(values) for axis, values in matrix.items()}
    if not star:
        return math.prod(sizes.values())
    victims = 1 + sum(sizes[axis] - 1 for axis in VICTIM_AXES)
    return sizes["dataset"] * sizes["attack"] * victims * sizes["seed"]


def _check_count(suite: Suite, count: int) -> None:
    """Refuse to list more than `MAX_COMBINATIONS`."""
    if count > MAX_COMBINATIONS:
        raise BenchError(
            f"suite {suite.name!r} has {count:,} combinations, more than the {MAX_COMBINATIONS:,} that "
            "can be planned; list fewer values, or run a part of it with --only"
            + ("" if suite.star else "; star = true varies one axis at a time")
        )


def _combine_all(matrix: Matrix, _: Fits) -> Iterator[Combination]:
    return map(Combination._make, itertools.product(*(matrix[axis] for axis in AXES)))


def _combine_star(matrix: Matrix, fits: Fits) -> Iterator[Combination]:
    """Yield the default victim and those that differ from it on one axis, for every attack and seed."""
    for dataset, attack in itertools.product(matrix["dataset"], matrix["attack"]):
        default = _default_victim(matrix, dataset, fits)
        victims = [default] + [
            {**default, axis: value}
            for axis in VICTIM_AXES
            for value in matrix[axis]
            if value != default[axis]
        ]
        for victim, seed in itertools.product(victims, matrix["seed"]):
            yield Combination(dataset, attack, **victim, seed=seed)


def _default_victim(matrix: Matrix, dataset: Choice, fits: Fits) -> dict[str, Choice]:
    """Return the first value of each victim axis that fits the dataset, the very first if none does."""
    return {
        axis: next((value for value in matrix[axis] if fits(axis, value, dataset)), matrix[axis][0])
        for axis in VICTIM_AXES
    }


def _complete(included: Sequence[Mapping[str, Any]], matrix: Matrix, fits: Fits) -> Iterator[Combination]:
    """Yield included entries; an axis that is missing takes the default."""
    first = {axis: matrix[axis][0] for axis in AXES}
    for entry in included:
        dataset = entry.get("dataset", first["dataset"])
        yield Combination(**{**first, **_default_victim(matrix, dataset, fits), **entry})
