"""Build the released set and clean it with a defense."""

import contextlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.api import (
    MultiTaskData,
)
from bench.engine.planning.cell import Cell, Poison, Purified
from bench.engine.planning.partial_protection import draw_perturbed_rows
from bench.engine.stages.apply_poison import apply_poison
from bench.engine.stages.context import (
    RunContext,
    describe_environment,
    hash_split,
    load_dataset,
    seeded,
    with_run_context,
)
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.device import explain_out_of_memory
from bench.engine.storage.store import POISONS, PURIFIED, DamagedError
from bench.errors import BenchError
from bench.record import CLEAN, Cost
from bench.training.loaders import select_rows
from bench.values import Progress, Split


@with_run_context
def purify_set(purified: Purified, run_context: RunContext, progress: Progress) -> dict[str, Cost]:
    """Let a defense that learns clean a released set, and store the images; return what it cost."""
    data = load_dataset(purified.poison.dataset.part, run_context)
    about, change = load_poison(purified.poison, data, run_context)
    published = build_released_set(purified, data.train, change, owned_mask(purified, data))
    return _learn_to_clean(purified, published, data, about, run_context, progress)[1]


def _learn_to_clean(
    purified: Purified,
    published: Split,
    data: MultiTaskData,
    poison: dict[str, Any],
    run_context: RunContext,
    progress: Progress,
) -> tuple[Split, dict[str, Cost]]:
    meter = CostMeter(run_context.torch_device)
    cleaned = _apply_purify(purified, published, data, meter, run_context, progress)
    about = {
        "settings": purified.settings(),
        "cost": meter.costs(),
        "of": _poison_hashes(poison),
        "environment": describe_environment(run_context),
    }
    run_context.store.save(PURIFIED, purified.key, {"images": cleaned.images}, about)
    return cleaned, meter.costs()


def cleaned_set(
    cell: Cell,
    published: Split,
    data: MultiTaskData,
    poison: dict[str, Any],
    meter: CostMeter,
    run_context: RunContext,
    progress: Progress,
) -> tuple[Split, dict[str, Cost]]:
    """Return the released set as the defense cleans it, and what that cost if it is done for several cells.

    A set that should be stored and is not, or is damaged or was made of another poison, is made here.
    """
    purified = cell.purified
    if purified is None:
        return _apply_purify(cell, published, data, meter, run_context, progress), {}
    with contextlib.suppress(DamagedError):
        about = run_context.store.about(PURIFIED, purified.key)
        if about is not None and about["of"] == _poison_hashes(poison):
            images = run_context.store.load(PURIFIED, purified.key)["images"]
            return replace(published, images=images), about["cost"]
    return _learn_to_clean(purified, published, data, poison, run_context, progress)


def _apply_purify(
    item: Cell | Purified,
    published: Split,
    data: MultiTaskData,
    meter: CostMeter,
    run_context: RunContext,
    progress: Progress,
) -> Split:
    device, name = run_context.torch_device, item.defense.label
    with (
        explain_out_of_memory(f"defense {name!r} to clean the images", "give it smaller parameters"),
        seeded("purify", item.seed),
        meter.phase("purify", images=len(published)),
    ):
        images = item.defense.part.purify(published, data.tasks, device, progress)
    return replace(published, images=images)


def _poison_hashes(poison: dict[str, Any]) -> list[str]:
    """Return hashes of the images a stored poison was made for and of what it changes in them."""
    return [poison["data"], poison["tensors_sha256"]]


def owned_mask(item: Cell | Purified, data: MultiTaskData) -> Tensor:
    """Return of which training images [n] the exploiter owns the clean originals."""
    return draw_mask(len(data.train), item.defense.part.trusted, "trusted", item)


def build_released_set(cell: Cell | Purified, train: Split, change: Tensor | None, own: Tensor) -> Split:
    """Return the training set as the exploiter finds it, without the images that are his own.

    Of ``clean`` at a rate below 1 only the images that an attack at that rate leaves alone are published: the
    reference for what the unprotected part gives away by itself.
    """
    left_alone = ~draw_perturbed_rows(len(train), cell.rate, cell.poison.seed)
    if cell.rate < 1 and cell.poison.attack.name == CLEAN:
        return select_rows(train, left_alone & ~own)
    images = apply_poison(train.images, change, cell.poison.epsilon, cell.poison.attack.label)
    if cell.rate < 1:
        images[left_alone] = train.images[left_alone]
    released = replace(train, images=images)
    return select_rows(released, ~own) if own.any() else released


def draw_mask(count: int, share: float, what: str, cell: Cell | Purified) -> Tensor:
    """Return which of so many images [n] are set aside, a share of them that is drawn with the victim's seed.

    Raises:
        BenchError: when fewer than two, or all but fewer than two, would be.
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    if not share:
        return chosen
    number = round(share * count)
    if not 2 <= number <= count - 2:
        raise BenchError(
            f"defense {cell.defense.label!r} would set {number} of {count} images aside as {what}; two at "
            f"least are needed, and two for training"
        )
    with seeded(what, cell.seed):
        chosen[torch.randperm(count)[:number]] = True
    return chosen


def load_poison(
    poison: Poison, data: MultiTaskData, run_context: RunContext
) -> tuple[dict[str, Any], Tensor | None]:
    """Return the notes on a stored poison and the change of every pixel (None: nothing is changed).

    Raises:
        BenchError: when the poison is missing or was made for other images.
    """
    about = run_context.store.about(POISONS, poison.key)
    if about is None:
        raise BenchError(f"the poison {poison.label!r} is gone from {run_context.out}")
    if about["data"] != hash_split(data.train):
        raise BenchError(
            f"the poison {poison.label!r} in {run_context.out} was made for other images than those under "
            f"the data root {run_context.data_root}; give another --out"
        )
    return about, run_context.store.load(POISONS, poison.key).get("change")
