"""Train a surrogate on the clean data, and load its snapshots."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.api import MultiTaskData, Task
from bench.catalog.build import build_part
from bench.engine.planning.cell import Surrogate
from bench.engine.stages.context import (
    RunContext,
    describe_environment,
    network_input_shape,
    seeded,
    with_run_context,
)
from bench.engine.stages.cost import CostMeter
from bench.engine.stages.device import train_within_memory
from bench.engine.stages.loaded_data import fingerprint, load_dataset, require_same_data
from bench.engine.stages.networks import build_network
from bench.engine.storage.store import SURROGATES, Store
from bench.errors import BenchError
from bench.record import Cost
from bench.training.loaders import to_device_if_it_fits
from bench.training.loop import TrainedEpoch, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Progress, Recipe, Split

MAX_SNAPSHOTS = 30
"""Most snapshots kept of a surrogate's training, equidistant: as many as the ensemble attacks use."""


@with_run_context
def train_surrogate(surrogate: Surrogate, run_context: RunContext, progress: Progress) -> dict[str, Cost]:
    """Train a surrogate on the clean data and store its snapshots; return the cost.

    If the device's memory is too small, it is trained again with halved batches; the cost is that of both
    attempts.
    """
    device = run_context.torch_device
    meter = CostMeter(device)
    data = load_dataset(surrogate.dataset.part, run_context)
    epochs = surrogate.recipe.epochs
    kept = equidistant_epochs(epochs, MAX_SNAPSHOTS)

    def train(pieces: int) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        with seeded("surrogate", surrogate.seed), meter.phase("surrogate", images=epochs * len(data.train)):
            shape = network_input_shape(data)
            net = build_network(surrogate.backbone.part, data.tasks, shape, run_context, pieces)
            for step in train_undefended(net, data.train, data.tasks, surrogate.recipe, data, device):
                if step.epoch in kept:
                    weights = net.state_dict().items()
                    tensors |= {f"{step.epoch}/{name}": value.to("cpu", copy=True) for name, value in weights}
                progress("epoch", step.epoch, epochs)
        return tensors

    tensors, pieces = train_within_memory(train, f"the surrogate {surrogate.label}", surrogate.recipe.batch)
    about = {
        "settings": surrogate.settings(),
        "cost": meter.costs(),
        "snapshots": kept,
        "data": fingerprint(data),
        "environment": describe_environment(run_context, pieces),
    }
    run_context.store.save(SURROGATES, surrogate.key, tensors, about)
    return meter.costs()


def train_undefended(
    net: MultiTaskNet,
    train: Split,
    tasks: tuple[Task, ...],
    recipe: Recipe,
    data: MultiTaskData,
    device: torch.device,
) -> Iterator[TrainedEpoch]:
    """Train a network with equal weights and without a defense."""
    balancer, no_defense = build_part("weighting", "ew").start(tasks, device), build_part("defense", "none")
    train = to_device_if_it_fits(train, device)
    return train_epochs(net, train, tasks, recipe, data.augmentation, balancer, no_defense, device)


def load_snapshots(
    store: Store, surrogate: Surrogate, count: int, new_net: Callable[[], MultiTaskNet], data: MultiTaskData
) -> list[MultiTaskNet]:
    """Return networks with the weights of equidistant snapshots, the last one included.

    Raises:
        BenchError: when the surrogate is missing, damaged or belongs to other data.
    """
    about = store.read_about(SURROGATES, surrogate.key)
    if about is None:
        raise BenchError(f"the surrogate {surrogate.label!r} is missing in {store.out}")
    require_same_data(about, data, f"the surrogate {surrogate.label!r} in {store.out}")
    # Earlier versions stored the same list under another name.
    epochs = about["snapshots"] if "snapshots" in about else about["checkpoints"]
    nets = []
    for place in equidistant_epochs(len(epochs), count):
        with torch.random.fork_rng(devices=[]):  # its initialization is overwritten
            net = new_net()
        net.load_state_dict(store.load(SURROGATES, surrogate.key, f"{epochs[place - 1]}/"))
        nets.append(net)
    return nets


def equidistant_epochs(last: int, count: int) -> list[int]:
    """Return ``count`` (or all, if fewer) equidistant numbers from 1 to ``last``, the last included."""
    count = min(count, last)
    return [round((i + 1) * last / count) for i in range(count)]
