"""A suite of ten thousand cells, and the records that a run of it would have left: nothing is trained."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, Self

from bench.engine.executors.base import Outcome
from bench.engine.planning.cell import Cell
from bench.engine.planning.expand import Plan, expand_suite
from bench.engine.planning.suite_file import Suite
from bench.record import Cost, Epoch, Record, TaskInfo, TaskNoise
from tests.engine import tiny

AXES: dict[str, list[str | int]] = {
    "dataset": ["digits(test=32, train=64)", "digits(test=32, train=80)", "digits(test=32, train=96)"],
    "attack": ["clean", "random", "lsp", "ar", "ops", "em", "tap", "sep", "mtl-ue-em"],
    "backbone": ["small", "small(width=3)", "small(width=4)", "small(width=5)", "resnet18"],
    "weighting": ["ew", "uw", "dwa", "rlw", "gls"],
    "defense": ["none", "jpeg", "grayscale", "cutout", "jpeg+cutout"],
    "regime": ["mtl"],
    "seed": [0, 1, 2],
}
"""A full matrix of 10,125 cells on 81 poisons and 9 surrogates."""

EPOCHS = 10

CLASSES = {"left": 10, "right": 10, "larger": 2, "sum-odd": 2}
"""Task of the digits → number of its classes."""

PHASES = {"load": 0.1, "poison": 0.1, "purify": 0.1, "train": 3.0, "score": 0.5}
"""Phase of a cell → its seconds."""


def suite(**axes: list[str | int]) -> Suite:
    """Return the suite, some axes of it with other values."""
    document = tiny.document(name="large", star=False, recipe={"epochs": EPOCHS})
    return Suite.model_validate({**document, "matrix": {**AXES, **axes}})


def plan(**axes: list[str | int]) -> Plan:
    return expand_suite(suite(**axes))


def finish(cell: Cell) -> Record:
    """Return the record of a cell that was run: four tasks, ten epochs, every phase timed."""
    draw = random.Random(cell.key)
    attack = str(cell.labels["attack"])
    learned = 1.0 if attack == "clean" else draw.uniform(0.1, 0.9)
    curve = [_epoch(number, learned * (1 - math.exp(-number / 3)), draw) for number in range(1, EPOCHS + 1)]
    surrogate = {"surrogate": _cost(20.0, draw)} if cell.poison.attack.part.needs_surrogate else {}
    return Record(
        key=cell.key,
        status="done",
        suite="large",
        cell=cell.labels,
        victim=cell.victim,
        poison=cell.poison.key,
        settings=cell.settings(),
        tasks={task: _task(classes) for task, classes in CLASSES.items()},
        scores=curve[-1]["scores"],
        peak=curve[-1]["scores"],
        curve=curve,
        noise={
            **{"linf": 8.0, "l2": draw.uniform(1, 1.7), "l0": 0.9, "psnr": 30.0, "clamped": 0.01},
            "ssim": draw.uniform(0.8, 1),
            "tasks": {task: _noise(draw) for task in CLASSES},
        },
        cost=surrogate | {name: _cost(seconds, draw) for name, seconds in {"craft": 10.0, **PHASES}.items()},
        environment={"python": "3.11.7", "torch": "2.11.0", "device": "cpu", "threads": 1, "data": "0" * 16},
        finished="2026-03-01T12:00:00+00:00",
    )


class Pretending:
    """An executor that does nothing, and says of every cell what `finish` does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to end."""

    def map(self, work: Any, next_item: Callable[[], Any], tell: Any) -> Iterator[Outcome[Any, Any]]:
        while (item := next_item()) is not None:
            tell(item, "epoch", 0, EPOCHS)
            yield Outcome(item, finish(item) if isinstance(item, Cell) else {}, None, 0.0)


def _epoch(number: int, learned: float, draw: random.Random) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=draw.uniform(0, 3),
        learning_rate=1e-3,
        weights=dict.fromkeys(CLASSES, 1 / len(CLASSES)),
        scores={task: _scores(1 / classes, learned, draw) for task, classes in CLASSES.items()},
    )


def _scores(floor: float, learned: float, draw: random.Random) -> dict[str, float | None]:
    score = floor + (1 - floor) * learned * draw.uniform(0.95, 1)
    both = {"accuracy": score, "balanced_accuracy": score}
    return {"loss": draw.uniform(0, 3), **both, "auroc": (1 + score) / 2}


def _task(classes: int) -> TaskInfo:
    metrics = ("accuracy", "balanced_accuracy", "auroc")
    return TaskInfo(
        kind="classification",
        classes=classes,
        headline="accuracy",
        scored="balanced_accuracy",
        floor=dict.fromkeys(metrics, 1 / classes) | {"auroc": 0.5},
        perfect=dict.fromkeys(metrics, 1.0),
        test=32,
    )


def _noise(draw: random.Random) -> TaskNoise:
    return TaskNoise(
        intra_spread=draw.random(),
        inter_distance=draw.random(),
        linear_accuracy=draw.random(),
        linear_balanced_accuracy=draw.random(),
        linear_floor=0.5,
    )


def _cost(seconds: float, draw: random.Random) -> Cost:
    took = seconds * draw.uniform(0.9, 1.1)
    return Cost(seconds=took, images_per_s=64 / took, peak_host_mb=500.0, peak_device_mb=None)
