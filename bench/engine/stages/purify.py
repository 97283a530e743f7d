"""Clean a released set with a defense."""

import contextlib
from dataclasses import replace

from bench.api import MultiTaskData
from bench.engine.planning.cell import Cell, Purified
from bench.engine.stages.context import (
    RunContext,
    describe_environment,
    seeded,
    with_run_context,
)
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.device import explain_out_of_memory
from bench.engine.stages.loaded_data import fingerprint, load_dataset, reject_writes
from bench.engine.stages.released_set import StoredPoison, build_released_set, load_poison
from bench.engine.storage.store import PURIFIED, DamagedError
from bench.record import Cost
from bench.values import Progress, Split


@with_run_context
def purify_set(purified: Purified, run_context: RunContext, progress: Progress) -> dict[str, Cost]:
    """Build a released set, clean it and store the images for all cells that share them; return the cost."""
    data = load_dataset(purified.poison.dataset.part, run_context)
    poison = load_poison(purified.poison, data, run_context)
    released = build_released_set(purified, data.train, poison.change)
    return load_or_purify(purified, released, data, poison, run_context, progress)[1]


def load_or_purify(
    item: Cell | Purified,
    released: Split,
    data: MultiTaskData,
    poison: StoredPoison,
    run_context: RunContext,
    progress: Progress,
) -> tuple[Split, dict[str, Cost]]:
    """Return the released set as the defense cleans it, and what cleaning cost.

    A defense that learns cleans a set once for all cells that share it: a cell loads the stored images. If
    they are missing, damaged or made from another poison, they are made again and stored.
    """
    store, shared = run_context.store, item.purified if isinstance(item, Cell) else item
    if isinstance(item, Cell) and shared is not None:
        with contextlib.suppress(DamagedError):
            about = store.read_about(PURIFIED, shared.key)
            if about is not None and about["of"] == poison.hashes:
                images = store.load(PURIFIED, shared.key)["images"]
                return replace(released, images=images), about["cost"]
    meter, defense = CostMeter(run_context.torch_device), item.defense
    with (
        explain_out_of_memory(f"defense {defense.label!r} to clean the images", "use smaller parameters"),
        seeded("purify", item.seed),
        reject_writes(released, f"defense {defense.label!r}"),
        meter.phase("purify", images=len(released)),
    ):
        images = defense.part.purify(released, data.tasks, run_context.torch_device, progress)
    if shared is not None:
        about = {
            "settings": shared.settings(),
            "cost": meter.costs(),
            "data": fingerprint(data),
            "of": poison.hashes,
            "environment": describe_environment(run_context),
        }
        store.save(PURIFIED, shared.key, {"images": images}, about)
    return replace(released, images=images), meter.costs()
