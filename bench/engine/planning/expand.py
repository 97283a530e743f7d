"""Expand a suite into cells."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.catalog.build import build_part, compose_parts
from bench.catalog.choice import Choice
from bench.catalog.table import catalog_entries, locate_part
from bench.engine.planning.cell import Cell, ChosenPart, Poison, Purified, Surrogate
from bench.engine.planning.partial_protection import (
    PARTIAL_PARAMETERS,
    PartialProtection,
    read_partial_protection,
)
from bench.engine.planning.suite_file import Suite, override_recipe
from bench.errors import BenchError, unknown_name_error
from bench.record import AXES, CLEAN
from bench.values import DENSE, Recipe

VICTIM_AXES = ("backbone", "weighting", "defense", "regime")
"""The axes a star varies one at a time."""

ALL = "all"
"""In a suite, stands for every part on an axis's shelf; for datasets, for those that are there."""

Labels = Mapping[str, str | int]


@dataclass(frozen=True)
class Plan:
    """A suite's cells in order, and one sentence for each thing that was left out."""

    suite: str
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...]

    @property
    def poisons(self) -> tuple[Poison, ...]:
        """The distinct poisons, in order."""
        return tuple({cell.poison.key: cell.poison for cell in self.cells}.values())

    @property
    def surrogates(self) -> tuple[Surrogate, ...]:
        """The distinct surrogates that some attack needs trained, in order."""
        needed = (poison for poison in self.poisons if poison.attack.part.needs_surrogate)
        return tuple({poison.surrogate.key: poison.surrogate for poison in needed}.values())

    @property
    def purified(self) -> tuple[Purified, ...]:
        """The distinct sets that a defense learns to clean, in order."""
        sets = (cell.purified for cell in self.cells)
        return tuple({one.key: one for one in sets if one is not None}.values())


def expand_suite(suite: Suite, only: Sequence[str] = (), data_root: Path | None = None) -> Plan:
    """Expand a suite into its cells, every one with its clean counterpart.

    Args:
        suite: the suite.
        only: ``AXIS=a,b`` restrictions, by label or by name; clean counterparts are kept.
        data_root: where datasets are looked for.

    Raises:
        BenchError: for an unknown axis, name or parameter, or a dataset that is not there.
    """
    matrix = _resolve(suite)
    restrictions = [_restriction(text, matrix, suite) for text in only]
    excluded = [_rule(entry) for entry in suite.exclude]
    build = _Builder(suite)
    combinations = [
        combination
        for combination in (*_combine(matrix, suite.star, build), *_included(suite, matrix, build))
        if not any(_matches(combination, rule) for rule in excluded)
        and all(_selected(combination, axis, values) for axis, values in restrictions)
    ]
    if not combinations:
        raise BenchError(f"suite {suite.name!r} has no cell left")
    missing = _missing(build, combinations, data_root)
    present = [combination for combination in combinations if combination["dataset"] not in missing]
    if missing and not (suite.skip_missing_data and present):
        raise BenchError(next(iter(missing.values())))
    unfit = {number: why for number, labels in enumerate(present) if (why := build.unfit(labels))}
    fit = [labels for number, labels in enumerate(present) if number not in unfit]
    left_out = (*missing.values(), *dict.fromkeys(unfit.values()))
    if not fit:
        raise BenchError(f"suite {suite.name!r} has no cell left: {left_out[0]}")
    cells = {cell.key: cell for cell in map(build.cell, _with_clean(fit, build))}
    return Plan(suite.name, tuple(cells.values()), left_out)


def _resolve(suite: Suite) -> dict[str, list[str | int]]:
    """Return the matrix with every axis and every "all" filled in."""
    matrix: dict[str, list[str | int]] = {}
    for axis in AXES:
        values = suite.matrix.get(axis)
        if values is None or values == []:
            raise BenchError(f"suite {suite.name!r}: [matrix] says nothing of the axis {axis!r}")
        if values == ALL and axis != "seed":
            matrix[axis] = list(catalog_entries(axis))
        else:
            listed = [values] if isinstance(values, str) else values
            matrix[axis] = [_label(axis, value) for value in listed]
    return matrix


def _label(axis: str, value: str | int) -> str | int:
    if axis == "seed":
        if not isinstance(value, int):
            raise BenchError(f"a seed is a whole number, not {value!r}")
        return value
    return Choice.parse(str(value)).label


def _missing(
    build: "_Builder", combinations: Iterable[Labels], data_root: Path | None
) -> dict[str | int, str]:
    """Return, per dataset that is not there, one sentence on how to get it."""
    found: dict[str | int, str] = {}
    for label in dict.fromkeys(combination["dataset"] for combination in combinations):
        sentence = build.part("dataset", label).part.missing(data_root)
        if sentence:
            found[label] = sentence
    return found


def _combine(
    matrix: Mapping[str, Sequence[str | int]], star: bool, build: "_Builder"
) -> Iterator[dict[str, str | int]]:
    if not star:
        yield from (
            dict(zip(AXES, values, strict=True)) for values in itertools.product(*(matrix[a] for a in AXES))
        )
        return
    for dataset, attack in itertools.product(matrix["dataset"], matrix["attack"]):
        default = _default(matrix, dataset, build)
        victims = [default] + [
            {**default, axis: value}
            for axis in VICTIM_AXES
            for value in matrix[axis]
            if value != default[axis]
        ]
        for victim, seed in itertools.product(victims, matrix["seed"]):
            yield {"dataset": dataset, "attack": attack, **victim, "seed": seed}


def _default(
    matrix: Mapping[str, Sequence[str | int]], dataset: str | int, build: "_Builder"
) -> dict[str, str | int]:
    """Return the first value of every victim axis that can work with a dataset, the first if none can."""

    def first(axis: str) -> str | int:
        fit = (value for value in matrix[axis] if not build.unfit({"dataset": dataset, axis: value}))
        return next(fit, matrix[axis][0])

    return {axis: first(axis) for axis in VICTIM_AXES}


def _included(
    suite: Suite, matrix: Mapping[str, Sequence[str | int]], build: "_Builder"
) -> Iterator[dict[str, str | int]]:
    first = {axis: matrix[axis][0] for axis in AXES}
    for given in _entries(suite):
        dataset = given.get("dataset", first["dataset"])
        yield {**first, **_default(matrix, dataset, build), **given}


def _entries(suite: Suite) -> Iterator[dict[str, str | int]]:
    """Yield every combination of the included entries' values, with canonical labels."""
    for entry in suite.include:
        listed = [value if isinstance(value, list) else [value] for value in entry.values()]
        for values in itertools.product(*listed):
            yield {axis: _label(axis, value) for axis, value in zip(entry, values, strict=True)}


def _restriction(
    text: str, matrix: Mapping[str, Sequence[str | int]], suite: Suite
) -> tuple[str, tuple[str, ...]]:
    axis, equals, values = text.partition("=")
    axis = axis.strip()
    if not equals:
        raise BenchError(f"cannot read --only {text!r}; write AXIS=a,b, such as attack=em,tap")
    if axis not in AXES:
        raise unknown_name_error("axis in --only", axis, AXES)
    labels = [*matrix[axis], *(entry[axis] for entry in _entries(suite) if axis in entry)]
    known = {str(label) for label in labels} | {_name(label) for label in labels}
    # A comma in parentheses is between parameters.
    pieces = [piece.strip() for piece in re.split(r",(?![^(]*\))", values)]
    wanted = tuple(piece if axis == "seed" else Choice.parse(piece).label for piece in pieces)
    for value in wanted:
        if value not in known:
            raise unknown_name_error(f"{axis} in --only (of suite {suite.name!r}):", value, known)
    return axis, wanted


@cache
def _name(label: str | int) -> str:
    return Choice.parse(label).name if isinstance(label, str) else str(label)


def _selected(combination: Labels, axis: str, values: Sequence[str]) -> bool:
    return str(combination[axis]) in values or _name(combination[axis]) in values


def _rule(entry: Labels) -> dict[str, str | int]:
    """Return an exclusion with its labels in the canonical spelling, every part of it known."""
    for axis, value in entry.items():
        if axis != "seed":
            choice = Choice.parse(str(value))
            for part in choice.parts or (choice,):
                locate_part(axis, part.name)
    return {axis: _label(axis, value) for axis, value in entry.items()}


def _matches(combination: Labels, rule: Labels) -> bool:
    return all(
        str(value) in (str(combination[axis]), _name(combination[axis])) for axis, value in rule.items()
    )


def _with_clean(combinations: Sequence[Labels], build: "_Builder") -> Iterator[Labels]:
    """Yield the clean counterparts of every combination, then all of them, each once.

    An attack on a part of the images has two: all images clean, and the part it leaves alone.
    """
    counterparts: dict[tuple[str | int, ...], Labels] = {}
    for combination in combinations:
        attacks = [CLEAN]
        rate = build.scope(combination["attack"]).rate
        if rate < 1:
            attacks.append(Choice(CLEAN, (("rate", rate),)).label)
        for attack in attacks:
            counterpart = {**combination, "attack": attack}
            counterparts.setdefault(tuple(counterpart.values()), counterpart)
    yield from counterparts.values()
    yield from (labels for labels in combinations if tuple(labels.values()) not in counterparts)


class _Builder:
    """Builds cells; what several have in common is built once, and so is its key."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._parts: dict[tuple[str, str | int], ChosenPart[Any]] = {}
        self.scope = cache(self._scope)
        self._surrogate = cache(self._build_surrogate)
        self._poison = cache(self._build_poison)
        self._recipe = cache(self._build_recipe)

    def part(self, axis: str, label: str | int) -> ChosenPart[Any]:
        if (axis, label) not in self._parts:
            choice = Choice.parse(str(label))
            self._parts[axis, label] = ChosenPart(choice, self._make(axis, choice))
        return self._parts[axis, label]

    def _make(self, axis: str, choice: Choice) -> Any:
        if choice.parts:
            return compose_parts(axis, choice, [self._make(axis, part) for part in choice.parts])
        part = build_part(axis, Choice(choice.name), self._params(axis, choice))
        for name, value in asdict(part).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise BenchError(f"{axis} {choice.name!r}: {name} = {value} is refused: it is not finite")
        return part

    def _params(self, axis: str, choice: Choice, scope: bool = False) -> dict[str, Any]:
        """Return the parameters a part is given, or those of the scope, which are not the attack's own."""
        given = {**self._suite.params.get(axis, {}).get(choice.name, {}), **dict(choice.params)}
        return {
            name: value
            for name, value in given.items()
            if (axis == "attack" and name in PARTIAL_PARAMETERS) == scope
        }

    def _scope(self, label: str | int) -> PartialProtection:
        """Return which images and tasks an attack of this label protects."""
        choice = Choice.parse(str(label))
        scope = read_partial_protection(choice.name, self._params("attack", choice, scope=True))
        if choice.name == CLEAN and scope.tasks:
            raise BenchError(f"attack {CLEAN!r} protects no task; leave tasks = {list(scope.tasks)} away")
        if choice.name == CLEAN and scope.rate < 1 and not choice.params:
            raise BenchError(
                f"attack {CLEAN!r} is the reference; leave rate = {scope.rate} out of its params"
            )
        return scope

    def unfit(self, labels: Labels) -> str | None:
        """Return why parts cannot work with the tasks of a dataset, None where they can."""
        dense = self.part("dataset", labels["dataset"]).part.kinds & DENSE
        for axis in ("attack", "backbone", "defense"):
            if dense and axis in labels and not self.part(axis, labels[axis]).part.dense:
                what = f"{axis} {labels[axis]!r} cannot work with dense tasks"
                return f"{what} ({', '.join(sorted(dense))}) and is left out on {labels['dataset']!r}"
        return None

    def _build_surrogate(self, dataset: str | int, seed: int) -> Surrogate:
        settings = self._suite.surrogate
        names = [settings.backbone] if isinstance(settings.backbone, str) else settings.backbone
        name = next((n for n in names if not self.unfit({"dataset": dataset, "backbone": n})), None)
        if name is None:
            raise BenchError(
                f"suite {self._suite.name!r}: {self.unfit({'dataset': dataset, 'backbone': names[0]})}; "
                "name one more under surrogate.backbone, as a list"
            )
        recipe = override_recipe(self._recipe(dataset), settings.recipe)
        return Surrogate(
            dataset=self.part("dataset", dataset),
            backbone=self.part("backbone", name),
            recipe=replace(recipe, stl_epochs=None),  # it has all tasks
            seed=seed,
        )

    def _build_recipe(self, dataset: str | int) -> Recipe:
        return override_recipe(self.part("dataset", dataset).part.recipe, self._suite.recipe)

    def _build_poison(self, dataset: str | int, label: str | int, seed: int) -> Poison:
        surrogate, attack = self._surrogate(dataset, seed), self.part("attack", label)
        epsilon = self._suite.budget.epsilon if attack.part.bounded else None
        return Poison(surrogate.dataset, attack, surrogate, epsilon, seed, self.scope(label).tasks)

    def cell(self, labels: Labels) -> Cell:
        """Return the cell of these labels, one for every axis."""
        seed = int(labels["seed"])
        poison_seed = seed if self._suite.poison_seed is None else self._suite.poison_seed
        victim = {axis: self.part(axis, labels[axis]) for axis in VICTIM_AXES}
        return Cell(
            poison=self._poison(labels["dataset"], labels["attack"], poison_seed),
            recipe=self._recipe(labels["dataset"]),
            seed=seed,
            rate=self.scope(labels["attack"]).rate,
            **victim,
        )
