"""The training set as the exploiter finds it: poisoned, without the images whose originals they own."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.api import MultiTaskData
from bench.engine.planning.cell import Cell, Poison, Purified
from bench.engine.planning.partial_protection import draw_perturbed_rows
from bench.engine.stages.budget import apply_poison
from bench.engine.stages.context import RunContext, seeded
from bench.engine.stages.loaded_data import require_same_data
from bench.engine.storage.store import POISONS
from bench.errors import BenchError
from bench.record import CLEAN
from bench.training.loaders import select_rows
from bench.values import Split


@dataclass(frozen=True, eq=False)
class StoredPoison:
    """A poison as stored.

    Attributes:
        about: its settings, noise report, cost and environment.
        change: the change of every pixel; None if nothing is changed.
    """

    about: dict[str, Any]
    change: Tensor | None

    @property
    def hashes(self) -> list[str]:
        """Hashes of the data it was made for and of its tensors."""
        return [self.about["data"], self.about["tensors_sha256"]]


def load_poison(poison: Poison, data: MultiTaskData, run_context: RunContext) -> StoredPoison:
    """Load a poison that was crafted for this data.

    Raises:
        BenchError: when the poison is missing or belongs to other data.
    """
    about = run_context.store.read_about(POISONS, poison.key)
    if about is None:
        raise BenchError(f"the poison {poison.label!r} is missing in {run_context.out}")
    require_same_data(about, data, f"the poison {poison.label!r} in {run_context.out}")
    return StoredPoison(about, run_context.store.load(POISONS, poison.key).get("change"))


def build_released_set(item: Cell | Purified, train: Split, change: Tensor | None) -> Split:
    """Return the released images, without those whose clean originals the exploiter owns.

    With the attack ``clean`` at a rate below 1, only the images that an attack at that rate leaves unchanged
    are released. This is the reference for what the unprotected part alone teaches.
    """
    owned = owned_mask(item, len(train))
    unchanged = ~draw_perturbed_rows(len(train), item.rate, item.poison.seed)
    if item.rate < 1 and item.poison.attack.name == CLEAN:
        return select_rows(train, unchanged & ~owned)
    images = apply_poison(train.images, change, item.poison.budget, item.poison.attack.label)
    if item.rate < 1:
        images[unchanged] = train.images[unchanged]
    released = replace(train, images=images)
    return select_rows(released, ~owned) if owned.any() else released


def owned_mask(item: Cell | Purified, count: int) -> Tensor:
    """Return a mask [n] of the training images whose clean originals the exploiter owns."""
    return draw_mask(count, item.defense.part.trusted, "trusted", item)


def draw_mask(count: int, share: float, purpose: str, item: Cell | Purified) -> Tensor:
    """Return a mask [n] of the images that are set aside: a share, drawn with the victim's seed.

    Raises:
        BenchError: when fewer than two images would be set aside, or fewer than two left.
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    if not share:
        return chosen
    number = round(share * count)
    if not 2 <= number <= count - 2:
        raise BenchError(
            f"defense {item.defense.label!r} would set {number} of {count} images aside as {purpose}; it "
            f"needs at least two, and training needs at least two"
        )
    with seeded(purpose, item.seed):
        chosen[torch.randperm(count)[:number]] = True
    return chosen
