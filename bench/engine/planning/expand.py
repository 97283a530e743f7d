"""Expand a suite into a plan: the suite's combinations become cells, each with its clean counterpart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.api import Attack, BuildingRegime, Dataset
from bench.catalog.build import build_part, build_validated, compose_parts
from bench.catalog.choice import Choice
from bench.engine.planning.cell import Cell, ChosenPart, Poison, Purified, Surrogate
from bench.engine.planning.combinations import VICTIM_AXES, Combination, list_combinations
from bench.engine.planning.omissions import Omission
from bench.engine.planning.partial_protection import (
    COMMON_PARAMETERS,
    PartialProtection,
    read_partial_protection,
)
from bench.engine.planning.suite_file import BudgetSettings, Suite, override_recipe
from bench.errors import BenchError, format_input, name_foreign_errors
from bench.record import CLEAN, DATA_SEED, NO_DEFENSE
from bench.text import escape_bytes
from bench.values import DENSE, Budget, Recipe, default_budget

DENSE_AXES = ("attack", "backbone", "defense")
"""The axes whose parts say whether they work with dense tasks."""


@dataclass(frozen=True)
class Plan:
    """A suite's cells in order, and what is left out."""

    suite: str
    cells: tuple[Cell, ...]
    omissions: tuple[Omission, ...]

    @property
    def left_out(self) -> tuple[str, ...]:
        """One sentence for each thing that is left out."""
        return tuple(omission.sentence for omission in self.omissions)

    @property
    def poisons(self) -> tuple[Poison, ...]:
        """The distinct poisons, in order."""
        return tuple({cell.poison.key: cell.poison for cell in self.cells}.values())

    @property
    def drawn_by_seed(self) -> tuple[str, ...]:
        """The labels of the datasets of which every seed has its own images."""
        datasets = (cell.poison.dataset for cell in self.cells)
        return tuple(dict.fromkeys(each.label for each in datasets if each.data_seed is not None))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for every attack whose parameters cannot work well."""
        attacks = {poison.attack.label: poison.attack.part for poison in self.poisons}
        return tuple(
            f"attack {label!r}: {sentence}"
            for label, part in attacks.items()
            if hasattr(part, "parameter_warning") and (sentence := part.parameter_warning())
        )

    @property
    def surrogates(self) -> tuple[Surrogate, ...]:
        """The distinct surrogates that some attack needs trained, in order."""
        needed = (poison for poison in self.poisons if poison.attack.part.needs_surrogate)
        return tuple({poison.surrogate.key: poison.surrogate for poison in needed}.values())

    @property
    def purified(self) -> tuple[Purified, ...]:
        """The distinct sets that a defense learns to clean, in order."""
        sets = (cell.purified for cell in self.cells)
        return tuple({each.key: each for each in sets if each is not None}.values())


def expand_suite(suite: Suite, only: Sequence[str] = (), data_root: Path | None = None) -> Plan:
    """Expand a suite into its cells, each with its clean counterpart.

    Args:
        suite: the suite.
        only: ``AXIS=a,b`` restrictions, by label or by name; clean counterparts are kept.
        data_root: where datasets are looked for.

    Raises:
        BenchError: for an unknown axis, name or parameter, or a dataset that is missing.
    """
    builder = _CellBuilder(suite)
    combinations = list_combinations(suite, only, builder.fits)
    datasets = dict.fromkeys(combination.dataset for combination in combinations)
    missing = {dataset: why for dataset in datasets if (why := builder.find_missing(dataset, data_root))}
    present = [combination for combination in combinations if combination.dataset not in missing]
    if missing and not (suite.skip_missing_data and present):
        raise BenchError(next(iter(missing.values())))
    absent = [
        Omission("datasets are left out, since their files are missing", dataset.label, escape_bytes(why))
        for dataset, why in missing.items()
    ]
    misfits = list(map(builder.explain_misfit, present))
    fitting = [combination for combination, misfit in zip(present, misfits, strict=True) if not misfit]
    omissions = (*absent, *dict.fromkeys(filter(None, misfits)))
    if not fitting:
        raise BenchError(f"suite {suite.name!r} has no cell left: {omissions[0].sentence}")
    clean = dict.fromkeys(each for combination in fitting for each in builder.clean_counterparts(combination))
    attacked = (combination for combination in fitting if combination not in clean)
    cells = {cell.key: cell for cell in map(builder.build_cell, (*clean, *attacked))}
    return Plan(suite.name, tuple(cells.values()), omissions)


class _CellBuilder:
    """Builds cells. What several cells share is built once, and its key is computed once."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        names = suite.surrogate.backbone
        self._surrogate_backbones = [
            Choice.parse(name) for name in ([names] if isinstance(names, str) else names)
        ]
        # The caches belong to this builder: a later suite may give the same part other parameters.
        self._part = cache(self._build_chosen)
        self._part_misfit = cache(self._explain_part_misfit)
        self._regime_misfit = cache(self._explain_regime_misfit)
        self._clean_attacks = cache(self._list_clean_attacks)
        self._protection = cache(self._read_protection)
        self._recipe = cache(self._build_recipe)
        self._dataset = cache(self._choose_dataset)
        self._surrogate = cache(self._build_surrogate)
        self._budget = cache(self._build_budget)
        self._poison = cache(self._build_poison)

    def build_cell(self, combination: Combination) -> Cell:
        dataset, attack, seed = combination.dataset, combination.attack, combination.seed
        poison_seed = seed if self._suite.poison_seed is None else self._suite.poison_seed
        victim = {axis: self._part(axis, getattr(combination, axis)) for axis in VICTIM_AXES}
        return Cell(
            poison=self._poison(self._dataset(dataset, seed), attack, poison_seed),
            recipe=self._recipe(dataset),
            seed=seed,
            rate=self._protection(attack).rate,
            **victim,
        )

    def clean_counterparts(self, combination: Combination) -> Iterator[Combination]:
        """Yield the combinations without an attack that this one is compared with.

        They have the same victim. The first one has no defense either: scores are measured in what it learns.
        """
        yield combination._replace(attack=Choice(CLEAN), defense=Choice(NO_DEFENSE))
        for clean in self._clean_attacks(combination.attack):
            yield combination._replace(attack=clean)

    def find_missing(self, dataset: Choice, data_root: Path | None) -> str | None:
        """Return one sentence on how to get a dataset, None if it is there."""
        chosen: ChosenPart[Dataset] = self._part("dataset", dataset)
        with name_foreign_errors(f"cannot look for the dataset {dataset.label}"):
            return chosen.part.missing(data_root)

    def fits(self, axis: str, choice: Choice, dataset: Choice) -> bool:
        """Return whether a part can work with the tasks of a dataset."""
        return self._part_misfit(axis, choice, dataset) is None

    def explain_misfit(self, combination: Combination) -> Omission | None:
        """Return why a part cannot work with the tasks of the dataset, None if all can."""
        misfits = (
            self._part_misfit(axis, getattr(combination, axis), combination.dataset) for axis in DENSE_AXES
        )
        return next(filter(None, misfits), None) or self._regime_misfit(
            combination.regime, combination.backbone, combination.weighting, combination.dataset
        )

    def _explain_part_misfit(self, axis: str, choice: Choice, dataset: Choice) -> Omission | None:
        dense = self._part("dataset", dataset).part.kinds & DENSE
        if not dense or axis not in DENSE_AXES or self._part(axis, choice).part.dense:
            return None
        return Omission(
            "parts are left out on a dataset, since they cannot work with dense tasks",
            f"{axis} {choice.label} on {dataset.label}",
            f"{axis} {choice.label!r} cannot work with dense tasks ({', '.join(sorted(dense))}) "
            f"and is left out on {dataset.label!r}",
        )

    def _explain_regime_misfit(
        self, regime: Choice, backbone: Choice, weighting: Choice, dataset: Choice
    ) -> Omission | None:
        part = self._part("regime", regime).part
        if not isinstance(part, BuildingRegime):
            return None
        kinds = self._part("dataset", dataset).part.kinds
        with name_foreign_errors(f"cannot ask the regime {regime.label} what fits it"):
            misfit = part.explain_misfit(
                self._part("backbone", backbone).part, self._part("weighting", weighting).part, kinds
            )
        if not misfit:
            return None
        return Omission(
            f"combinations are left out, since the regime {misfit}",
            f"{regime.label} on {dataset.label} with {backbone.label} and {weighting.label}",
            f"regime {regime.label!r} {misfit}: it is left out on {dataset.label!r} with backbone "
            f"{backbone.label!r} and weighting {weighting.label!r}",
        )

    def _build_chosen(self, axis: str, choice: Choice) -> ChosenPart[Any]:
        return ChosenPart(choice, self._build_part(axis, choice))

    def _build_part(self, axis: str, choice: Choice) -> Any:
        if choice.parts:
            return compose_parts(axis, choice, [self._build_part(axis, part) for part in choice.parts])
        params = self._params(axis, choice)
        if axis == "attack":  # those that every attack takes are not its own
            params = {name: value for name, value in params.items() if name not in COMMON_PARAMETERS}
        return build_part(axis, Choice(choice.name), params)

    def _choose_dataset(self, choice: Choice, seed: int) -> ChosenPart[Dataset]:
        """Return a dataset; its images are drawn with the seed of the cell if the suite asks for that."""
        chosen: ChosenPart[Dataset] = self._part("dataset", choice)
        if self._suite.data_seed is None:
            return chosen
        asks = (
            f'suite {self._suite.name!r}: data_seed = "seed" draws other images with every seed, but dataset'
            f" {choice.label!r}"
        )
        if not hasattr(chosen.part, DATA_SEED):
            raise BenchError(f"{asks} has no parameter {DATA_SEED}; remove one of them")
        params = self._params("dataset", choice)
        if DATA_SEED in params:
            given = f"{DATA_SEED}={params[DATA_SEED]}"
            raise BenchError(f"{asks} is given {given}; remove one of them")
        return ChosenPart(
            choice, build_part("dataset", Choice(choice.name), {**params, DATA_SEED: seed}), data_seed=seed
        )

    def _params(self, axis: str, choice: Choice) -> Mapping[str, Any]:
        """Return the parameters of the suite's [params], with those of the choice on top."""
        return {**self._suite.params.get(axis, {}).get(choice.name, {}), **dict(choice.params)}

    def _read_protection(self, attack: Choice) -> PartialProtection:
        protection = read_partial_protection(attack.name, self._params("attack", attack))
        if attack.name == CLEAN and protection.tasks:
            raise BenchError(f"attack {CLEAN!r} protects no task; remove tasks={list(protection.tasks)}")
        if attack.name == CLEAN and protection.rate < 1 and not attack.params:
            raise BenchError(
                f"attack {CLEAN!r} is the reference; remove rate={protection.rate} from its params"
            )
        return protection

    def _list_clean_attacks(self, attack: Choice) -> tuple[Choice, ...]:
        """Return clean; for an attack on some of the images also clean on the images it leaves alone."""
        rate = self._protection(attack).rate
        return (Choice(CLEAN), Choice(CLEAN, (("rate", rate),))) if rate < 1 else (Choice(CLEAN),)

    def _build_recipe(self, dataset: Choice) -> Recipe:
        return override_recipe(self._part("dataset", dataset).part.recipe, self._suite.recipe)

    def _build_surrogate(self, dataset: ChosenPart[Dataset], seed: int) -> Surrogate:
        choices = self._surrogate_backbones
        backbone = next((choice for choice in choices if self.fits("backbone", choice, dataset.choice)), None)
        if backbone is None:
            misfit = self._part_misfit("backbone", choices[0], dataset.choice)
            raise BenchError(
                f"suite {self._suite.name!r}: {misfit and misfit.sentence}; "
                "name one more under surrogate.backbone, as a list"
            )
        recipe = override_recipe(self._recipe(dataset.choice), self._suite.surrogate.recipe)
        return Surrogate(
            dataset=dataset,
            backbone=self._part("backbone", backbone),
            recipe=replace(recipe, stl_epochs=None),  # it has all tasks
            seed=seed,
        )

    def _build_poison(self, dataset: ChosenPart[Dataset], attack: Choice, seed: int) -> Poison:
        surrogate, chosen = self._surrogate(dataset, seed), self._part("attack", attack)
        budget, tasks = self._budget(attack), self._protection(attack).tasks
        return Poison(dataset, _name_budget(chosen, budget), surrogate, budget, seed, tasks)

    def _build_budget(self, attack: Choice) -> Budget | None:
        """Return the suite's budget for the attack's norm, or the one that the attack itself is given."""
        norm, given = self._part("attack", attack).part.norm, self._params("attack", attack).get("epsilon")
        owner, keys = f"attack {attack.name!r}", {"linf": "epsilon", "l2": "l2"}
        if norm is None:
            if given is not None:
                raise BenchError(f"{owner} has no budget; remove epsilon={format_input(given)}")
            return None
        if norm not in keys:
            raise BenchError(f"{owner}: its norm is {format_input(norm)}; it can be 'linf', 'l2' or None")
        settings: BudgetSettings = self._suite.budget
        if given is not None:
            settings = build_validated(BudgetSettings, {keys[norm]: given}, owner)
        return Budget(norm, getattr(settings, keys[norm]))


def _name_budget(attack: ChosenPart[Attack], budget: Budget | None) -> ChosenPart[Attack]:
    """Return an attack whose label says its budget, unless that is the default one of its track.

    So results at different budgets have different labels, wherever the budget was set.
    """
    params = {name: value for name, value in attack.choice.params if name != "epsilon"}
    if attack.name != CLEAN and budget is not None and budget != default_budget(budget.norm):
        params["epsilon"] = budget.epsilon
    return replace(attack, choice=replace(attack.choice, params=tuple(sorted(params.items()))))
