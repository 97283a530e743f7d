"""Craft a poison and store it."""

from dataclasses import replace
from functools import partial
from math import isfinite
from typing import cast

from bench.api import Checkpoint, CraftContext, Generative, MultiTaskData, Noise, RestoringAttack
from bench.engine.planning.cell import Poison
from bench.engine.planning.partial_protection import hide_unprotected
from bench.engine.stages.budget import quantize_delta
from bench.engine.stages.checkpoint import FileCheckpoint
from bench.engine.stages.context import (
    RunContext,
    describe_environment,
    network_input_shape,
    seeded,
    with_run_context,
)
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.device import explain_out_of_memory
from bench.engine.stages.example_images import select_example_images
from bench.engine.stages.loaded_data import fingerprint, load_dataset, reject_writes, require_same_data
from bench.engine.stages.networks import build_network
from bench.engine.stages.noise_report import noise_report
from bench.engine.stages.passes import CountingCheckpoint, PassCounter
from bench.engine.stages.surrogate import load_snapshots
from bench.engine.storage.store import POISONS
from bench.errors import BenchError
from bench.example_images import encode_example_images
from bench.record import CLEAN, Cost
from bench.training.net import MultiTaskNet
from bench.values import CountPass, NoCheckpoint, Progress, ignore_pass


@with_run_context
def craft_poison(poison: Poison, run_context: RunContext, progress: Progress) -> dict[str, Cost]:
    """Craft a poison and store it as the change of every pixel; return the cost.

    A generator is stored with it, for images it has not seen. An interrupted crafting resumes from its
    checkpoint.
    """
    import sklearn.cluster  # attacks import it lazily; the cost of crafting must not include the import
    import sklearn.datasets  # noqa: F401

    device = run_context.torch_device
    meter = CostMeter(device)
    data = load_dataset(poison.dataset.part, run_context)
    name = poison.attack.label
    train = hide_unprotected(data, poison.protected)
    identity = {"data": fingerprint(data), "device": device.type, "precision": run_context.precision}
    checkpoint = FileCheckpoint(run_context.store.checkpoint_path(poison.key), identity)
    remedy = "use a smaller batch, if the attack has that parameter, or a smaller surrogate backbone"
    with explain_out_of_memory(f"crafting {poison.label}", remedy), seeded("craft", poison.seed):
        counter = PassCounter()
        kept = CountingCheckpoint(checkpoint, counter)
        context = _craft_context(poison, data, run_context, progress, kept, counter.count)
        aim: dict[str, float | None] = {}
        context = replace(context, report_aim=partial(_keep_aim, aim))
        with reject_writes(train, f"attack {name!r}"), meter.phase("craft", images=len(train)):
            noise = poison.attack.part.craft(train, context)
            change, statistics = quantize_delta(noise, train, poison.budget, device, name)
    if not statistics["linf"] and poison.attack.name != CLEAN:
        raise BenchError(f"attack {name!r} changed no pixel of {poison.dataset.label!r}")
    trained = poison.surrogate.recipe.epochs if poison.attack.part.needs_surrogate else 0
    passes = counter.per_image(len(train), trained)
    report = noise_report(data.train, change, data.tasks, device)
    about = {
        "settings": poison.settings(),
        "noise": {**statistics, **aim, **passes, **report},
        "cost": meter.costs(),
        "data": fingerprint(data),
        "environment": describe_environment(run_context),
    }
    # For the attack clean, no table of zeros is stored.
    tensors = {"change": change} if statistics["linf"] else {}
    if isinstance(noise, Generative):
        tensors |= {f"noise/{name}": value for name, value in noise.state().items()}
    examples = None
    if statistics["linf"] and run_context.keep_images:
        selected = select_example_images(data.train.images, change, poison.budget, name)
        examples = encode_example_images(selected)
    run_context.store.save(POISONS, poison.key, tensors, about, examples)
    checkpoint.remove()
    return meter.costs()


def _keep_aim(kept: dict[str, float | None], loss: float, hit_rate: float) -> None:
    """Keep what an attack reports of its surrogates, under the names of the noise report."""
    kept["surrogate_loss"] = loss if isfinite(loss) else None
    kept["hit_rate"] = hit_rate if isfinite(hit_rate) else None


def restore_noise(poison: Poison, run_context: RunContext) -> Noise:
    """Return the stored generator of a poison, which also makes δ for images it has not seen.

    Raises:
        BenchError: when the poison is missing, was not made by a generator or belongs to other data.
    """
    state = run_context.store.load(POISONS, poison.key, "noise/")
    if not state:
        raise BenchError(f"attack {poison.attack.label!r} stores no generator for images it has not seen")
    data = load_dataset(poison.dataset.part, run_context)
    about = run_context.store.read_about(POISONS, poison.key) or {}
    require_same_data(about, data, f"the poison {poison.label!r} in {run_context.out}")
    context = _craft_context(poison, data, run_context, lambda *_: None, NoCheckpoint(), ignore_pass)
    attack = cast("RestoringAttack", poison.attack.part)
    _, channels, height, width = data.train.images.shape
    return attack.restore(state, context, (channels, height, width))


def _craft_context(
    poison: Poison,
    data: MultiTaskData,
    run_context: RunContext,
    progress: Progress,
    checkpoint: Checkpoint,
    count_pass: CountPass,
) -> CraftContext:
    device = run_context.torch_device
    shape = network_input_shape(data)

    def new_surrogate() -> MultiTaskNet:
        net = build_network(poison.surrogate.backbone.part, data.tasks, shape, run_context)
        net.count_pass = count_pass
        return net

    def snapshots(count: int) -> list[MultiTaskNet]:
        return load_snapshots(run_context.store, poison.surrogate, count, new_surrogate, data)

    return CraftContext(
        data.tasks,
        data.augmentation,
        1.0 if poison.budget is None else poison.budget.pixel_epsilon,
        new_surrogate,
        snapshots,
        device,
        progress,
        checkpoint,
        norm=poison.attack.part.norm,
        count_pass=count_pass,
    )
