"""Surrogate ⊂ Poison ⊂ Cell: frozen values with keys; results with the same key are the same."""

from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Generic, Literal, TypeVar

from bench.api import Attack, Backbone, Dataset, Defense, Regime, Weighting
from bench.catalog.build import part_settings
from bench.catalog.choice import Choice
from bench.files import hash_json
from bench.record import PROTOCOL
from bench.values import Budget, Recipe

P = TypeVar("P")

ItemKind = Literal["surrogates", "poisons", "purified", "cells"]
"""What an item is. Each kind is made from those before it."""

KEY_LENGTH = 16
"""Hexadecimal digits of a key: 64 bits, no collision is expected below a billion cells."""


@dataclass(frozen=True)
class ChosenPart(Generic[P]):
    """A part, and how a suite names it."""

    choice: Choice
    part: P  # hashable: a frozen dataclass
    data_seed: int | None = None  # of a dataset, if the suite sets it; a parameter of the part, too

    @property
    def name(self) -> str:
        """Its name in the catalog."""
        return self.choice.name

    @property
    def label(self) -> str:
        """Its name with the parameters that the suite gives it."""
        return self.choice.label

    def settings(self) -> dict[str, Any]:
        """Return name, version and every parameter. Do not change the result: cells share it."""
        return self._settings

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return part_settings(self.choice, self.part)


def _describe_seeds(dataset: ChosenPart[Dataset], seed: int) -> str:
    """Return the seed of an item, and that of its dataset if the suite sets it to another one."""
    images = dataset.data_seed
    return f"seed {seed}" + ("" if images in (None, seed) else f", images of seed {images}")


@cache
def _recipe_settings(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe)


def _network_settings(backbone: ChosenPart[Backbone]) -> dict[str, Any]:
    """Return what can change a network. In earlier versions every linear head was a layer of its own."""
    return {"backbone": backbone.settings(), "heads": "rows of one layer"}


def _hash_settings(kind: str, settings: dict[str, Any]) -> str:
    return hash_json({"kind": kind, "protocol": PROTOCOL, **settings})[:KEY_LENGTH]


@dataclass(frozen=True)
class Surrogate:
    """A network that is trained on the clean data for the attacks that need one."""

    dataset: ChosenPart[Dataset]
    backbone: ChosenPart[Backbone]
    recipe: Recipe
    seed: int
    kind: ClassVar[ItemKind] = "surrogates"
    sources: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """One line for people."""
        seeds = _describe_seeds(self.dataset, self.seed)
        return f"{self.backbone.label} · {self.dataset.label} · {seeds}"

    def settings(self) -> dict[str, Any]:
        """Return everything that can change it."""
        return {
            "dataset": self.dataset.settings(),
            **_network_settings(self.backbone),
            "recipe": _recipe_settings(self.recipe),
            "seed": self.seed,
        }

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change it."""
        return _hash_settings("surrogate", self.settings())


@dataclass(frozen=True)
class Poison:
    """A dataset as an attack releases it.

    The surrogate's architecture is always part of it; its training only if the attack needs that.
    """

    dataset: ChosenPart[Dataset]
    attack: ChosenPart[Attack]
    surrogate: Surrogate
    budget: Budget | None  # None for an attack without one
    seed: int
    protected: tuple[str, ...] = ()  # names of tasks; empty means all
    kind: ClassVar[ItemKind] = "poisons"

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of what it is made from."""
        return (self.surrogate.key,) if self.attack.part.needs_surrogate else ()

    @property
    def label(self) -> str:
        """One line for people."""
        attack = self.attack.label
        if self.protected and "tasks=" not in attack:
            attack += f" for {', '.join(self.protected)}"
        return f"{attack} · {self.dataset.label} · {_describe_seeds(self.dataset, self.seed)}"

    def settings(self) -> dict[str, Any]:
        """Return everything that can change it."""
        if self.attack.part.needs_surrogate:
            surrogate = self.surrogate.settings()
        else:
            surrogate = _network_settings(self.surrogate.backbone)
        return {
            "dataset": self.dataset.settings(),
            "attack": self.attack.settings(),
            "surrogate": surrogate,
            "norm": self.budget and self.budget.norm,
            "epsilon": self.budget and self.budget.epsilon,
            "poison_seed": self.seed,
            "protected": list(self.protected),
        }

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change it."""
        return _hash_settings("poison", self.settings())


@dataclass(frozen=True)
class Purified:
    """The released images after a defense that learns has cleaned them; victims share them."""

    poison: Poison
    defense: ChosenPart[Defense]
    seed: int
    rate: float
    kind: ClassVar[ItemKind] = "purified"

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of what it is made from."""
        return (self.poison.key,)

    @property
    def label(self) -> str:
        """One line for people."""
        attack, dataset = self.poison.attack.label, self.poison.dataset.label
        return f"{self.defense.label} · {attack} · {dataset} · seed {self.seed}"

    def settings(self) -> dict[str, Any]:
        """Return everything that can change it."""
        return {
            **self.poison.settings(),
            "rate": self.rate,
            "defense": self.defense.settings(),
            "seed": self.seed,
        }

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change it."""
        return _hash_settings("purified", self.settings())


@dataclass(frozen=True)
class Cell:
    """One victim trained on one poison."""

    poison: Poison
    backbone: ChosenPart[Backbone]
    weighting: ChosenPart[Weighting]
    defense: ChosenPart[Defense]
    regime: ChosenPart[Regime]
    recipe: Recipe
    seed: int
    rate: float = 1.0  # share of the images that carry the poison
    kind: ClassVar[ItemKind] = "cells"

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of what it is made from."""
        purified = self.purified
        return (self.poison.key,) if purified is None else (self.poison.key, purified.key)

    @cached_property
    def labels(self) -> dict[str, str | int]:
        """Axis → label, for every axis."""
        return {
            "dataset": self.poison.dataset.label,
            "attack": self.poison.attack.label,
            "backbone": self.backbone.label,
            "weighting": self.weighting.label,
            "defense": self.defense.label,
            "regime": self.regime.label,
            "seed": self.seed,
        }

    @property
    def label(self) -> str:
        """One line for people."""
        *parts, seed = self.labels.values()
        return " · ".join([*map(str, parts), f"seed {seed}"])

    @property
    def purified(self) -> Purified | None:
        """The cleaned images that cells share; None if the defense does not learn."""
        if not self.defense.part.learned:
            return None
        return Purified(self.poison, self.defense, self.seed, self.rate)

    def victim_settings(self) -> dict[str, Any]:
        """Return everything but the attack that can change the result."""
        return {
            "dataset": self.poison.dataset.settings(),
            **_network_settings(self.backbone),
            "weighting": self.weighting.settings(),
            "defense": self.defense.settings(),
            "regime": self.regime.settings(),
            "recipe": _recipe_settings(self.recipe),
            "seed": self.seed,
        }

    def settings(self) -> dict[str, Any]:
        """Return everything that can change the result."""
        return {**self.poison.settings(), "rate": self.rate, **self.victim_settings()}

    @cached_property
    def victim(self) -> str:
        """Hash of the victim's settings; cells that differ only in the attack share it."""
        return _hash_settings("victim", self.victim_settings())

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change the result."""
        return _hash_settings("cell", self.settings())


AnyItem = Surrogate | Poison | Purified | Cell
"""What a run makes. ``sources`` has the keys of the items that it is made from."""


def dataset_of(item: AnyItem) -> ChosenPart[Dataset]:
    """Return the dataset of an item."""
    return item.poison.dataset if isinstance(item, Purified | Cell) else item.dataset
