"""What is done for a surrogate, a poison and a cell, wherever it runs."""

import contextlib
import hashlib
import os
import platform
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache, partial, wraps
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from bench import vision
from bench.api import (
    Bookmark,
    CraftContext,
    Dataset,
    Generative,
    MultiTaskData,
    NoBookmark,
    Noise,
    Progress,
    Recipe,
    RestoringAttack,
    Shape,
    Split,
    Task,
)
from bench.augmentation import seen_shape
from bench.catalog import make
from bench.engine.bookmark import FileBookmark
from bench.engine.cell import Cell, Poison, Purified, Surrogate
from bench.engine.device import memory_of, repeatable, within_memory
from bench.engine.metering import Meter
from bench.engine.noise_report import noise_report
from bench.engine.poisoning import quantise, release
from bench.engine.scope import hide_unprotected, perturbed
from bench.engine.store import POISONS, PURIFIED, SURROGATES, DamagedError, Store
from bench.errors import BenchError
from bench.net import MultiTaskNet
from bench.record import CLEAN, Cost, Epoch, Record, Scores, TaskInfo
from bench.training import TrainedEpoch, fit, freeze_shared, hold, score, subset


@dataclass(frozen=True)
class Workshop:
    """Where work is done.

    Attributes:
        out: the run's folder.
        data_root: where the datasets are.
        cache: where their decoded images are kept, for all runs.
        device: where to compute.
        threads: CPU threads of one worker.
        suite: the suite's name.
        deterministic: whether CUDA is to give the same bits every time; a CPU does in any case.
    """

    out: Path
    data_root: Path | None
    cache: Path
    device: str
    threads: int
    suite: str
    deterministic: bool = False

    @property
    def store(self) -> Store:
        """The run's folder."""
        return Store(self.out)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.device)


LIBRARIES = ("mtlue-bench", "torch", "torchvision", "torchjd", "kornia", "numpy")
"""What a record notes the version of."""

CHECKPOINTS = 30
"""Most checkpoints kept of a surrogate's training, equidistant: what the ensemble attacks ask for."""


Item = TypeVar("Item")
R = TypeVar("R")
Work = Callable[[Item, Workshop, Progress], R]


def in_workshop(work: Work[Item, R]) -> Work[Item, R]:
    """Have work done as the workshop asks its device to compute, with nothing left to import."""

    @wraps(work)
    def done(item: Item, workshop: Workshop, progress: Progress) -> R:
        _import_late()
        with repeatable(workshop.deterministic and workshop.torch_device.type == "cuda"):
            return work(item, workshop, progress)

    return done


@cache
def _import_late() -> None:
    """Import what parts import only where they use it: no phase is to be billed for that."""
    import bench.metrics  # noqa: F401

    vision.load()


@in_workshop
def train_surrogate(surrogate: Surrogate, workshop: Workshop, progress: Progress) -> dict[str, Cost]:
    """Train a surrogate on the clean data and store its checkpoints; return what it cost.

    Where memory does not suffice it is trained once more with halved batches; the cost is that of both tries.
    """
    device = workshop.torch_device
    meter = Meter(device)
    data = _load(surrogate.dataset.part, workshop)
    epochs = surrogate.recipe.epochs
    kept = equidistant(epochs, CHECKPOINTS)

    def train(pieces: int) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        with seeded("surrogate", surrogate.seed), meter.phase("surrogate", images=epochs * len(data.train)):
            net = MultiTaskNet(surrogate.backbone.part, data.tasks, _shape(data), pieces).to(device)
            for step in _fit_plainly(net, data.train, data.tasks, surrogate.recipe, data, device):
                if step.epoch in kept:
                    weights = net.state_dict().items()
                    tensors |= {f"{step.epoch}/{name}": value.to("cpu", copy=True) for name, value in weights}
                progress("epoch", step.epoch, epochs)
        return tensors

    tensors, pieces = within_memory(train, f"the surrogate {surrogate.label}", surrogate.recipe.batch)
    about = {
        "settings": surrogate.settings(),
        "cost": meter.costs(),
        "checkpoints": kept,
        "environment": {**environment(workshop), **_in_pieces(pieces)},
    }
    workshop.store.save(SURROGATES, surrogate.key, tensors, about)
    return meter.costs()


def _fit_plainly(
    net: MultiTaskNet,
    train: Split,
    tasks: tuple[Task, ...],
    recipe: Recipe,
    data: MultiTaskData,
    device: torch.device,
) -> Iterator[TrainedEpoch]:
    """Train a network with equal weights and without a defense."""
    balancer, no_defense = make("weighting", "ew").start(tasks, device), make("defense", "none")
    return fit(net, hold(train, device), tasks, recipe, data.augmentation, balancer, no_defense, device)


def _in_pieces(pieces: int) -> dict[str, int]:
    """Return what a record's environment says of batches that were too large for the device's memory."""
    return {"batch_pieces": pieces} if pieces > 1 else {}


def equidistant(last: int, count: int) -> list[int]:
    """Return ``count`` (or all, if fewer) equidistant numbers from 1 to ``last``, the last included."""
    count = min(count, last)
    return [round((i + 1) * last / count) for i in range(count)]


@in_workshop
def craft_poison(poison: Poison, workshop: Workshop, progress: Progress) -> dict[str, Cost]:
    """Craft a poison and store it as the change of every pixel; return what it cost.

    A generator is stored with it, for images it has not seen. A crafting that was interrupted goes on from
    its bookmark.
    """
    import sklearn.cluster  # attacks import it where they use it: crafting is not to be billed for that
    import sklearn.datasets  # noqa: F401

    device = workshop.torch_device
    meter = Meter(device)
    data = _load(poison.dataset.part, workshop)
    name = poison.attack.label
    train = hide_unprotected(data, poison.protected)
    identity = {"data": fingerprint(data.train), "device": device.type}
    bookmark = FileBookmark(workshop.store.bookmark(poison.key), identity)
    remedy = "give the attack a smaller batch, if it has one, or the surrogate a smaller backbone"
    with memory_of(f"crafting {poison.label}", remedy), seeded("craft", poison.seed):
        context = _context(poison, data, workshop, progress, bookmark)
        with meter.phase("craft", images=len(train)):
            noise = poison.attack.part.craft(train, context)
            change, statistics = quantise(noise, train, poison.epsilon, device, name)
    if not statistics["linf"] and poison.attack.name != CLEAN:
        raise BenchError(f"attack {name!r} changed no pixel of {poison.dataset.label!r}")
    report = noise_report(data.train, change, data.tasks, device)
    about = {
        "settings": poison.settings(),
        "noise": {**statistics, **report},
        "cost": meter.costs(),
        "data": fingerprint(data.train),
        "environment": environment(workshop),
    }
    # Of clean, no table of zeros is stored.
    tensors = {"change": change} if statistics["linf"] else {}
    if isinstance(noise, Generative):
        tensors |= {f"noise/{name}": value for name, value in noise.state().items()}
    workshop.store.save(POISONS, poison.key, tensors, about)
    bookmark.remove()
    return meter.costs()


def restore_noise(poison: Poison, workshop: Workshop) -> Noise:
    """Return the stored generator of a poison, which can make δ for images it has not seen.

    Raises:
        BenchError: when the poison is not there or was not made by a generator.
    """
    state = workshop.store.load(POISONS, poison.key, "noise/")
    if not state:
        raise BenchError(f"attack {poison.attack.label!r} keeps nothing that serves images it has not seen")
    data = _load(poison.dataset.part, workshop)
    context = _context(poison, data, workshop, lambda *_: None, NoBookmark())
    attack = cast("RestoringAttack", poison.attack.part)
    _, channels, height, width = data.train.images.shape
    return attack.restore(state, context, (channels, height, width))


def _context(
    poison: Poison, data: MultiTaskData, workshop: Workshop, progress: Progress, bookmark: Bookmark
) -> CraftContext:
    device = workshop.torch_device
    shape = _shape(data)

    def new_surrogate() -> MultiTaskNet:
        return MultiTaskNet(poison.surrogate.backbone.part, data.tasks, shape).to(device)

    def checkpoints(count: int) -> list[MultiTaskNet]:
        store, key = workshop.store, poison.surrogate.key
        stored = (store.about(SURROGATES, key) or {})["checkpoints"]
        nets = []
        for place in equidistant(len(stored), count):
            with torch.random.fork_rng(devices=[]):  # its initialisation is overwritten
                net = new_surrogate()
            net.load_state_dict(store.load(SURROGATES, key, f"{stored[place - 1]}/"))
            nets.append(net)
        return nets

    epsilon = 1.0 if poison.epsilon is None else poison.epsilon / 255
    return CraftContext(
        data.tasks, data.augmentation, epsilon, new_surrogate, checkpoints, device, progress, bookmark
    )


@in_workshop
def run_cell(cell: Cell, workshop: Workshop, progress: Progress) -> Record:
    """Poison, clean, train, score: return the cell's record.

    Where memory does not suffice a network is trained once more with halved batches; the cost is that of both
    tries.
    """
    meter = Meter(workshop.torch_device)
    with meter.phase("load"):
        data = _load(cell.poison.dataset.part, workshop)
        about, change = _stored_poison(cell.poison, data, workshop)
    own = _owned(cell, data)
    with meter.phase("poison", images=len(data.train)):
        published = _publish(cell, data.train, change, own)
    cleaned, shared = _clean(cell, published, data, about, meter, workshop, progress)
    material = _material(cell, data, cleaned, own, workshop.torch_device)
    curves, pieces = [], 1
    for number, group in enumerate(cell.regime.part.groups(data.tasks)):
        train = partial(_train_victim, cell, group, material, data, number, meter, workshop, progress)
        trained, needed = within_memory(train, cell.label, cell.recipe.batch)
        curves.append(trained)
        pieces = max(pieces, needed)
    curve = _merge(curves)
    return Record(
        key=cell.key,
        status="done",
        suite=workshop.suite,
        cell=cell.labels,
        victim=cell.victim,
        poison=cell.poison.key,
        settings=cell.settings(),
        tasks=_tasks(data),
        scores={task: scores for one in curves for task, scores in _chosen(one)["scores"].items()},
        peak=_peak(curve, data),
        curve=curve,
        noise=about["noise"],
        cost={**_craft_cost(cell.poison, about, workshop), **shared, **meter.costs()},
        environment={
            **environment(workshop),
            "data": about["data"],
            "augmentation": asdict(data.augmentation),
            **({"purified": cell.purified.key} if cell.purified else {}),
            **_in_pieces(pieces),
        },
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@in_workshop
def purify_set(purified: Purified, workshop: Workshop, progress: Progress) -> dict[str, Cost]:
    """Let a defense that learns clean a released set, and store the images; return what it cost."""
    data = _load(purified.poison.dataset.part, workshop)
    about, change = _stored_poison(purified.poison, data, workshop)
    published = _publish(purified, data.train, change, _owned(purified, data))
    return _learn_to_clean(purified, published, data, about, workshop, progress)[1]


def _learn_to_clean(
    purified: Purified,
    published: Split,
    data: MultiTaskData,
    poison: dict[str, Any],
    workshop: Workshop,
    progress: Progress,
) -> tuple[Split, dict[str, Cost]]:
    meter = Meter(workshop.torch_device)
    cleaned = _purify(purified, published, data, meter, workshop, progress)
    about = {
        "settings": purified.settings(),
        "cost": meter.costs(),
        "of": _content(poison),
        "environment": environment(workshop),
    }
    workshop.store.save(PURIFIED, purified.key, {"images": cleaned.images}, about)
    return cleaned, meter.costs()


def _clean(
    cell: Cell,
    published: Split,
    data: MultiTaskData,
    poison: dict[str, Any],
    meter: Meter,
    workshop: Workshop,
    progress: Progress,
) -> tuple[Split, dict[str, Cost]]:
    """Return the released set as the defense cleans it, and what that cost if it is done for several cells.

    A set that should be stored and is not, or is damaged or was made of another poison, is made here.
    """
    purified = cell.purified
    if purified is None:
        return _purify(cell, published, data, meter, workshop, progress), {}
    with contextlib.suppress(DamagedError):
        about = workshop.store.about(PURIFIED, purified.key)
        if about is not None and about["of"] == _content(poison):
            images = workshop.store.load(PURIFIED, purified.key)["images"]
            return replace(published, images=images), about["cost"]
    return _learn_to_clean(purified, published, data, poison, workshop, progress)


def _purify(
    item: Cell | Purified,
    published: Split,
    data: MultiTaskData,
    meter: Meter,
    workshop: Workshop,
    progress: Progress,
) -> Split:
    device, name = workshop.torch_device, item.defense.label
    with (
        memory_of(f"defense {name!r} to clean the images", "give it smaller parameters"),
        seeded("purify", item.seed),
        meter.phase("purify", images=len(published)),
    ):
        images = item.defense.part.purify(published, data.tasks, device, progress)
    return replace(published, images=images)


def _content(poison: dict[str, Any]) -> list[str]:
    """Return hashes of the images a stored poison was made for and of what it changes in them."""
    return [poison["data"], poison["tensors_sha256"]]


def _owned(item: Cell | Purified, data: MultiTaskData) -> Tensor:
    """Return of which training images [n] the exploiter owns the clean originals."""
    return _set_aside(len(data.train), item.defense.part.trusted, "trusted", item)


def _publish(cell: Cell | Purified, train: Split, change: Tensor | None, own: Tensor) -> Split:
    """Return the training set as the exploiter finds it, without the images that are his own.

    Of ``clean`` at a rate below 1 only the images that an attack at that rate leaves alone are published: the
    reference for what the unprotected part gives away by itself.
    """
    left_alone = ~perturbed(len(train), cell.rate, cell.poison.seed)
    if cell.rate < 1 and cell.poison.attack.name == CLEAN:
        return subset(train, left_alone & ~own)
    images = release(train.images, change, cell.poison.epsilon, cell.poison.attack.label)
    if cell.rate < 1:
        images[left_alone] = train.images[left_alone]
    released = replace(train, images=images)
    return subset(released, ~own) if own.any() else released


def _set_aside(count: int, share: float, what: str, cell: Cell | Purified) -> Tensor:
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


@dataclass(frozen=True, eq=False)
class Material:
    """What a cell's networks are trained and scored on.

    Attributes:
        train: the released images, cleaned.
        test: the images that victims are scored on.
        validation: cleaned images that are held out, to pick an epoch; None: the last one is taken.
        held_out: what is to be known of the tasks on them.
        trusted: clean originals, on which the shared parameters are trained; None: there are none.
    """

    train: Split
    test: Split
    validation: Split | None
    held_out: dict[str, TaskInfo]
    trusted: Split | None


def _material(
    cell: Cell, data: MultiTaskData, purified: Split, own: Tensor, device: torch.device
) -> Material:
    train, validation = purified, None
    held_out: dict[str, TaskInfo] = {}
    chosen = _set_aside(len(purified), cell.defense.part.validation, "validation", cell)
    if chosen.any():
        train, validation = subset(purified, ~chosen), subset(purified, chosen)
        held_out = _describe(data.tasks, train, validation)
        validation = hold(validation, device)
    trusted = hold(subset(data.train, own), device) if own.any() else None
    return Material(hold(train, device), hold(data.test, device), validation, held_out, trusted)


def _stored_poison(
    poison: Poison, data: MultiTaskData, workshop: Workshop
) -> tuple[dict[str, Any], Tensor | None]:
    about = workshop.store.about(POISONS, poison.key)
    if about is None:
        raise BenchError(f"the poison {poison.label!r} is gone from {workshop.out}")
    if about["data"] != fingerprint(data.train):
        raise BenchError(
            f"the poison {poison.label!r} in {workshop.out} was made for other images than those under "
            f"the data root {workshop.data_root}; give another --out"
        )
    return about, workshop.store.load(POISONS, poison.key).get("change")


def _train_victim(
    cell: Cell,
    tasks: tuple[Task, ...],
    material: Material,
    data: MultiTaskData,
    number: int,
    meter: Meter,
    workshop: Workshop,
    progress: Progress,
    pieces: int,
) -> list[Epoch]:
    """Train and score one network on some of the tasks; return its learning curve.

    Args:
        cell: whose victim it is.
        tasks: the network's.
        material: what it is trained and scored on.
        data: the dataset.
        number: tells the cell's networks apart.
        meter: adds the costs up.
        workshop: where it is done.
        progress: told of every epoch.
        pieces: in how many a batch goes through the network.
    """
    device, recipe = workshop.torch_device, cell.recipe
    if len(tasks) == 1 and recipe.stl_epochs is not None:
        recipe = replace(recipe, epochs=recipe.stl_epochs)
    pretrained = None
    if material.trusted is not None:
        images = recipe.epochs * len(material.trusted)
        with seeded(f"trusted {number}", cell.seed), meter.phase("pretrain", images=images):
            pretrained = MultiTaskNet(cell.backbone.part, tasks, _shape(data), pieces).to(device)
            progress("pretraining epoch", 0, recipe.epochs)
            for step in _fit_plainly(pretrained, material.trusted, tasks, recipe, data, device):
                progress("pretraining epoch", step.epoch, recipe.epochs)
    with seeded(f"victim {number}", cell.seed):
        net = MultiTaskNet(cell.backbone.part, tasks, _shape(data), pieces).to(device)
        if pretrained is not None:
            freeze_shared(net, pretrained)
        balancer = cell.weighting.part.start(tasks, device)
        steps = fit(
            net, material.train, tasks, recipe, data.augmentation, balancer, cell.defense.part, device
        )
        curve = []
        progress("epoch", 0, recipe.epochs)
        for _ in range(recipe.epochs):
            with meter.phase("train", images=len(material.train)):
                step = next(steps)
            with meter.phase("score", images=len(material.test)):
                scores = score(net, material.test, tasks, data.augmentation, device)
            point = Epoch(
                epoch=step.epoch,
                train_loss=_finite(step.train_loss),
                learning_rate=step.learning_rate,
                weights=step.weights,
                scores=scores,
            )
            if material.validation is not None:
                with meter.phase("validate", images=len(material.validation)):
                    held_out = score(net, material.validation, tasks, data.augmentation, device)
                point["validation"] = _standings(held_out, material.held_out)
            curve.append(point)
            progress("epoch", step.epoch, recipe.epochs)
    return curve


def _standings(scores: Scores, infos: dict[str, TaskInfo]) -> dict[str, float]:
    """Return where every task's scored metric stands between the floor (0) and perfect (1).

    A task that is undefined, or has no room between the two, stands at 0.
    """
    standings = {}
    for task, metrics in scores.items():
        scored = infos[task]["scored"]
        floor, perfect = infos[task]["floor"][scored], infos[task]["perfect"][scored]
        value = metrics[scored]
        known = value is not None and perfect != floor
        standings[task] = (cast("float", value) - floor) / (perfect - floor) if known else 0.0
    return standings


def _chosen(curve: list[Epoch]) -> Epoch:
    """Return the epoch of one network that counts: the last, or that of the best mean on held-out images."""
    if "validation" not in curve[-1]:
        return curve[-1]
    return max(curve, key=lambda epoch: fmean(epoch["validation"].values()))


def _merge(curves: list[list[Epoch]]) -> list[Epoch]:
    """Merge the curves of a regime's networks into one; the loss is the mean over them."""
    merged = []
    for epochs in zip(*curves, strict=True):
        losses = [epoch["train_loss"] for epoch in epochs]
        known = [loss for loss in losses if loss is not None]
        point = Epoch(
            epoch=epochs[0]["epoch"],
            train_loss=sum(known) / len(known) if len(known) == len(losses) else None,
            learning_rate=epochs[0]["learning_rate"],
            weights={name: weight for epoch in epochs for name, weight in epoch["weights"].items()},
            scores={name: scores for epoch in epochs for name, scores in epoch["scores"].items()},
        )
        if "validation" in epochs[0]:
            point["validation"] = {
                name: value for epoch in epochs for name, value in epoch["validation"].items()
            }
        merged.append(point)
    return merged


def _peak(curve: list[Epoch], data: MultiTaskData) -> Scores:
    """Return per task and metric the best value over the epochs; loss is best where it is small."""
    peak: Scores = {}
    for task in data.tasks:
        info = _tasks(data)[task.name]
        peak[task.name] = {}
        for metric in curve[-1]["scores"][task.name]:
            values = [epoch["scores"][task.name][metric] for epoch in curve]
            known = [value for value in values if value is not None]
            best = max if info["perfect"].get(metric, 0.0) > info["floor"].get(metric, 1.0) else min
            peak[task.name][metric] = best(known) if known else None
    return peak


def _craft_cost(poison: Poison, about: dict[str, Any], workshop: Workshop) -> dict[str, Cost]:
    """Return the cost of the poison and of the surrogate it needed, each measured when it was made."""
    cost: dict[str, Cost] = dict(about["cost"])
    if poison.attack.part.needs_surrogate:
        # The poison is whole without it: a surrogate that was lost or damaged since costs the cell nothing.
        with contextlib.suppress(DamagedError):
            surrogate = workshop.store.about(SURROGATES, poison.surrogate.key) or {}
            cost = {**surrogate.get("cost", {}), **cost}
    return cost


@lru_cache(maxsize=2)
def _loaded(part: Hashable, root: Path | None, cache: Path) -> MultiTaskData:
    return cast("Dataset", part).load(root, cache)


def _load(part: Dataset, workshop: Workshop) -> MultiTaskData:
    """Load a dataset, once per process."""
    return _loaded(cast("Hashable", part), workshop.data_root, workshop.cache)


def _shape(data: MultiTaskData) -> Shape:
    """Return the shape [c h w] of the images networks are trained on."""
    channels, height, width = data.train.images.shape[1:]
    return seen_shape((channels, height, width), data.augmentation)


@lru_cache(maxsize=2)
def _tasks(data: MultiTaskData) -> dict[str, TaskInfo]:
    """Return what the leaderboard must know of every task, once per process: maps take a while to count."""
    return _describe(data.tasks, data.train, data.test)


def _describe(tasks: tuple[Task, ...], train: Split, test: Split) -> dict[str, TaskInfo]:
    return {
        task.name: cast("TaskInfo", task.describe(train.targets[task.name], test.targets[task.name]))
        for task in tasks
    }


@lru_cache(maxsize=4)
def fingerprint(split: Split) -> str:
    """Return a hash of a split's images and labels, to tell one set of files from another."""
    content = hashlib.sha256()
    for chunk in split.images.split(1024):
        content.update(chunk.contiguous().numpy().data)
    for name in sorted(split.targets):
        content.update(split.targets[name].contiguous().numpy().data)
    return content.hexdigest()[:16]


@contextlib.contextmanager
def seeded(phase: str, seed: int) -> Iterator[None]:
    """Seed every generator for one phase, so that its randomness does not depend on what ran before."""
    number = int.from_bytes(hashlib.sha256(f"{phase}/{seed}".encode()).digest()[:8], "big") % 2**63
    with torch.random.fork_rng():
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002 - libraries draw from it
        yield


def environment(workshop: Workshop) -> dict[str, Any]:
    """Return what can change numbers or times without changing a setting."""
    device = workshop.torch_device
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": workshop.threads,
        "device": workshop.device,
        "deterministic": workshop.deterministic,
        # A machine that only hands work out needs no GPU itself.
        "device_name": torch.cuda.get_device_name(device)
        if on_gpu and torch.cuda.is_available()
        else torch.backends.cpu.get_cpu_capability(),
    }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
