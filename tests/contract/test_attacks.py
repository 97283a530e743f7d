"""What every attack of the catalog keeps to, on training sets of many kinds."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.api import MISSING, Attack, Augmentation, Batch, CraftContext, Noise, Split
from bench.backbones.small import Small
from bench.catalog import CATALOG, make
from bench.engine.pipeline import seeded
from bench.engine.poisoning import quantise, release
from bench.net import MultiTaskNet
from bench.tasks import Classification

EPSILON = 8
CPU = torch.device("cpu")

QUICK: dict[str, dict[str, Any]] = {
    "em": {"rounds": 2, "surrogate_steps": 2, "steps": 2, "step_size": 1.6, "batch": 20},
    "tap": {"steps": 3, "step_size": 1.6, "batch": 20},
    "mtl-ue-em": {"rounds": 2, "surrogate_steps": 2, "batch": 20, "width": 4, "embedding_channels": 2},
}
"""Attack → parameters that make it quick; an attack that is not here is crafted with its defaults."""

NOT_RANDOM = {"clean"}
"""Attacks that are the same under every seed."""


@dataclass(frozen=True)
class Case:
    """A kind of training set: image sides, labels, augmentation."""

    channels: int = 3
    height: int = 16
    width: int = 16
    classes: tuple[int, ...] = (2, 5, 3)
    missing: float = 0.0
    augmentation: Augmentation = field(default=Augmentation(crop=13, flip=True))
    count: int = 48

    @property
    def tasks(self) -> tuple[Classification, ...]:
        return tuple(
            Classification(f"task {i}", tuple(f"class {c}" for c in range(classes)))
            for i, classes in enumerate(self.classes)
        )

    def split(self) -> Split:
        """Images of every brightness, black and white pixels among them, and random labels."""
        draw = torch.Generator().manual_seed(0)
        shape = (self.count, self.channels, self.height, self.width)
        images = torch.randint(-40, 296, shape, generator=draw).clamp(0, 255).to(torch.uint8)
        targets = {}
        for task in self.tasks:
            labels = torch.randint(0, task.classes, (self.count,), generator=draw)
            without = torch.rand(self.count, generator=draw) < self.missing
            targets[task.name] = labels.masked_fill(without, MISSING)
        return Split(images, targets)


CASES = {
    "colour": Case(),
    "grey": Case(channels=1),
    "one binary task": Case(classes=(2,)),
    "one task of five classes": Case(classes=(5,)),
    "many tasks": Case(classes=(2,) * 11),
    "labels missing": Case(missing=0.5),
    "no labels": Case(missing=1.0),
    "odd sides": Case(height=17, width=15),
    "wide": Case(height=12, width=20, augmentation=Augmentation(flip=True)),
    "no augmentation": Case(augmentation=Augmentation()),
    "a last batch of one": Case(count=41),
}

attacks = pytest.mark.parametrize("attack", CATALOG["attack"])
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
labelled_cases = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in CASES.items() if case.missing < 1]
)


class Crafting:
    """One crafting: the attack's means, and what came of it."""

    def __init__(self, attack: str, case: Case, seed: int = 0) -> None:
        self.train = case.split()
        self.steps: list[tuple[str, int, int]] = []
        part = make("attack", attack, QUICK.get(attack))
        assert isinstance(part, Attack)

        def new_surrogate() -> MultiTaskNet:
            return MultiTaskNet(Small(width=4), case.tasks, case.channels)

        with seeded("surrogate", 0):
            self.checkpoints = [new_surrogate()] if part.needs_surrogate else []
        self.before = [
            {key: value.clone() for key, value in net.state_dict().items()} for net in self.checkpoints
        ]
        context = CraftContext(
            case.tasks,
            case.augmentation,
            EPSILON / 255,
            new_surrogate,
            self.checkpoints,
            CPU,
            lambda *step: self.steps.append(step),
        )
        with seeded("craft", seed):
            self.noise: Noise = part.craft(self.train, context)
            self.change, self.statistics = quantise(self.noise, self.train, EPSILON, CPU, attack)


@attacks
@cases
def test_the_poison_keeps_the_budget_and_is_the_same_again(attack: str, case: Case) -> None:
    crafting = Crafting(attack, case)
    largest = int(crafting.change.int().abs().max())
    assert crafting.change.shape == crafting.train.images.shape
    assert largest <= EPSILON
    assert crafting.statistics["linf"] == largest
    released = release(crafting.train.images, crafting.change, EPSILON, attack)
    assert torch.equal(released.int(), crafting.train.images.int() + crafting.change.int())
    assert torch.equal(Crafting(attack, case).change, crafting.change)


@attacks
@labelled_cases
def test_only_clean_changes_nothing(attack: str, case: Case) -> None:
    assert bool(Crafting(attack, case).change.any()) == (attack != "clean")


@attacks
def test_another_seed_gives_another_poison_where_chance_has_a_part(attack: str) -> None:
    poisons = [Crafting(attack, Case(), seed).change for seed in (0, 1)]
    assert torch.equal(*poisons) == (attack in NOT_RANDOM)


@attacks
def test_crafting_leaves_its_inputs_alone(attack: str) -> None:
    case = Case(missing=0.2)
    crafting, fresh = Crafting(attack, case), case.split()
    assert torch.equal(crafting.train.images, fresh.images)
    assert {name: labels.tolist() for name, labels in crafting.train.targets.items()} == {
        name: labels.tolist() for name, labels in fresh.targets.items()
    }
    for net, before in zip(crafting.checkpoints, crafting.before, strict=True):
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@attacks
def test_asking_for_the_noise_leaves_the_batch_alone(attack: str) -> None:
    crafting = Crafting(attack, Case(missing=0.2))
    batch = one_batch(crafting.train)
    before = replace(batch, images=batch.images.clone(), index=batch.index.clone())
    crafting.noise.delta(batch)
    assert torch.equal(batch.images, before.images)
    assert torch.equal(batch.index, before.index)
    assert all(torch.equal(batch.targets[t], crafting.train.targets[t]) for t in crafting.train.targets)


@attacks
def test_the_noise_of_an_image_does_not_depend_on_its_batch(attack: str) -> None:
    crafting = Crafting(attack, Case(missing=0.2))
    together = crafting.noise.delta(one_batch(crafting.train))
    shuffled = torch.randperm(len(crafting.train), generator=torch.Generator().manual_seed(1))
    for rows in shuffled.split(7):
        few = crafting.noise.delta(one_batch(crafting.train, rows))
        assert torch.allclose(few, together[rows], atol=1e-5)


@attacks
def test_the_noise_needs_no_gradient(attack: str) -> None:
    crafting = Crafting(attack, Case())
    assert not crafting.noise.delta(one_batch(crafting.train)).requires_grad


@attacks
def test_progress_never_goes_back_nor_past_its_end(attack: str) -> None:
    last: dict[str, tuple[int, int]] = {}
    for what, done, total in Crafting(attack, Case()).steps:
        earlier, of = last.get(what, (0, total))
        assert 0 <= earlier <= done <= total == of
        last[what] = (done, total)


@attacks
def test_crafting_does_not_disturb_the_next_phase(attack: str) -> None:
    def upcoming() -> Iterator[Tensor]:
        torch.manual_seed(0)
        yield torch.rand(3)
        Crafting(attack, Case())
        yield torch.rand(3)

    torch.manual_seed(0)
    undisturbed = torch.rand(6)
    assert torch.equal(torch.cat(list(upcoming())), undisturbed)


def one_batch(train: Split, rows: Tensor | None = None) -> Batch:
    """Some rows of a split, or all of it, as an attack sees them."""
    rows = torch.arange(len(train)) if rows is None else rows
    targets = {name: labels[rows] for name, labels in train.targets.items()}
    return Batch(train.images[rows].float() / 255, targets, rows)
