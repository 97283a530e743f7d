"""Synthetic records: what a run would have written, without running anything."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.files import hash_json
from bench.record import AXES, Cost, NoiseReport, Record, Scores, TaskInfo, TaskNoise

LABELS: dict[str, str | int] = {
    "dataset": "digits",
    "attack": "em",
    "backbone": "small",
    "weighting": "ew",
    "defense": "none",
    "regime": "mtl",
    "seed": 0,
}

ATTACK_COSTS = {"clean": None, "em": (10.0, 500.0), "mtl-ue-em": (20.0, 250.0), "cuda": (1.0, 5000.0)}
"""Name of the attack → seconds and images/s of crafting."""

SPREADS = {"em": (1.1, 0.3), "mtl-ue-em": (0.4, 0.9), "cuda": (9.0, 4.0)}
"""Name of the attack → spread of its noise within classes and distance between them, in a first task."""


def task_info(
    headline: str = "accuracy",
    scored: str = "balanced_accuracy",
    floor: float = 0.5,
    perfect: float = 1.0,
    kind: str = "classification",
) -> TaskInfo:
    """Return a task whose two metrics share one floor and one perfect value."""
    return TaskInfo(
        kind=kind,
        headline=headline,
        scored=scored,
        floor={headline: floor, scored: floor},
        perfect={headline: perfect, scored: perfect},
        test=100,
    )


def cost(seconds: float, images_per_s: float | None = None, host: float | None = 400.0) -> Cost:
    return Cost(seconds=seconds, images_per_s=images_per_s, peak_host_mb=host, peak_device_mb=None)


def make_record(
    scores: Mapping[str, float | None],
    *,
    tasks: Mapping[str, TaskInfo] | None = None,
    raw: Mapping[str, float | None] | None = None,
    rate: float = 1.0,
    protected: Sequence[str] = (),
    bounded: bool = True,
    settings: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    costs: Mapping[str, Cost] | None = None,
    **labels: Any,
) -> Record:
    """Return a finished record.

    Args:
        scores: task → value of its scored metric; of its headline too, where ``raw`` has none.
        tasks: task → what is known of it; by default binary with floor 0.5.
        raw: task → value of its headline metric; the best epoch is 0.05 better, perfect at most.
        rate: share of the images that are perturbed; the poison is that of the attack on all images.
        protected: names of the protected tasks; empty: all.
        bounded: the attack keeps to a budget.
        settings: further settings of the cell, over those that ``rate`` and the like give.
        changes: fields of the record to set, over all else.
        costs: phase → cost; by default those of `ATTACK_COSTS` and 30 s of training.
        labels: axis → label, `LABELS` for the rest.
    """
    cell = {**LABELS, **labels}
    infos = dict(tasks) if tasks is not None else {task: task_info() for task in scores}
    label = str(cell["attack"])
    name = label.partition("(")[0]
    attack = {"dataset": cell["dataset"], "attack": label if rate == 1 else name, "seed": cell["seed"]}
    victim = {axis: cell[axis] for axis in AXES if axis != "attack"}
    fields: dict[str, Any] = {
        "key": hash_json(cell)[:16],
        "status": "done",
        "suite": "synthetic",
        "cell": cell,
        "victim": hash_json(victim)[:16],
        "poison": hash_json(attack)[:16],
        "settings": {"epsilon": 8 if bounded else None, "rate": rate, "protected": list(protected)}
        | dict(settings or {}),
        "tasks": infos,
        "scores": _scores(scores, infos, raw or {}, 0.0),
        "peak": _scores(scores, infos, raw or {}, 0.05),
        "noise": noise_report(name, {task: info["kind"] for task, info in infos.items()}, bounded),
        "cost": dict(costs) if costs is not None else _costs(name),
        "environment": {"device": "cpu", "threads": 1},
        "finished": "2026-03-01T12:00:00+00:00",
    }
    return Record(**(fields | dict(changes or {})))


def noise_report(attack: str, tasks: Mapping[str, str], bounded: bool = True) -> NoiseReport:
    """Return what is known of an attack's noise on task → kind; of the clean attack, that there is none.

    The spread falls by 0.1 with each task, and the linear classifier is right in 100 %, 90 %, ... of cases.
    """
    if attack == "clean":
        return {"linf": 0.0, "l2": 0.0, "l0": 0.0, "psnr": None, "clamped": 0.0, "ssim": 1.0, "tasks": {}}
    spread, distance = SPREADS.get(attack, (1.0, 1.0))
    by_task = {
        task: TaskNoise(
            intra_spread=spread - 0.1 * number,
            inter_distance=distance,
            linear_accuracy=1 - 0.1 * number,
            linear_balanced_accuracy=0.9 - 0.1 * number,
            linear_floor=0.5,
        )
        for number, (task, kind) in enumerate(tasks.items())
        if kind == "classification"
    }
    if not bounded:
        return {
            "linf": 203.0,
            "l2": 12.5,
            "l0": 0.99,
            "psnr": 17.0,
            "clamped": None,
            "ssim": 0.61,
            "tasks": by_task,
        }
    return {
        "linf": 8.0,
        "l2": 1.25,
        "l0": 0.95,
        "psnr": 32.5,
        "clamped": 0.02,
        "ssim": 0.93,
        "tasks": by_task,
    }


ROOM: dict[str, TaskInfo] = {
    "segmentation": {
        "kind": "segmentation",
        "classes": 13,
        "headline": "miou",
        "scored": "miou",
        "floor": {"miou": 0.02, "pixel_accuracy": 0.26},
        "perfect": {"miou": 1.0, "pixel_accuracy": 1.0},
        "test": 50,
    },
    "depth": {
        "kind": "depth",
        "headline": "absolute_error",
        "scored": "absolute_error",
        "floor": {"absolute_error": 0.8, "relative_error": 0.3},
        "perfect": {"absolute_error": 0.0, "relative_error": 0.0},
        "test": 50,
    },
    "normals": {
        "kind": "normals",
        "derived": True,
        "headline": "mean_angle",
        "scored": "mean_angle",
        "floor": {
            "mean_angle": 40.0,
            "median_angle": 35.0,
            "within_11_25": 0.1,
            "within_22_5": 0.3,
            "within_30": 0.4,
        },
        "perfect": {
            "mean_angle": 0.0,
            "median_angle": 0.0,
            "within_11_25": 1.0,
            "within_22_5": 1.0,
            "within_30": 1.0,
        },
        "test": 50,
    },
}
"""The three dense tasks of a picture of a room, whose normals were derived."""


def make_room(learned: Mapping[str, float], **labels: Any) -> Record:
    """Return a finished record of the tasks of `ROOM`.

    Args:
        learned: task → part of the way from floor to perfect, in every metric; 0.05 more in the best epoch.
        labels: as for `make_record`.
    """

    def at(task: str, part: float) -> dict[str, float | None]:
        info = ROOM[task]
        return {
            metric: max(0.0, floor + part * (info["perfect"][metric] - floor))
            for metric, floor in info["floor"].items()
        }

    changes = {
        "scores": {task: at(task, part) for task, part in learned.items()},
        "peak": {task: at(task, part + 0.05) for task, part in learned.items()},
    }
    return make_record({}, tasks=ROOM, changes=changes, **({"dataset": "rooms"} | labels))


def fail(message: str = "out of memory", **labels: Any) -> Record:
    """Return a failed record."""
    error = {"type": "RuntimeError", "message": message, "traceback": ""}
    changes = {
        "status": "failed",
        "error": error,
        "scores": {},
        "peak": {},
        "cost": {},
        "noise": {},
        "tasks": {},
    }
    return make_record({}, changes=changes, **labels)


def matrix(
    learned: Mapping[str, Mapping[str, Sequence[float]]], seeds: int = 3, **labels: Any
) -> list[Record]:
    """Return the cells of attack → defense → protection of its tasks ``a``, ``b``, ...

    A clean victim scores 1 (give ``clean`` zeros), the floor is 0.5, and the protection of the other attacks
    rises by 0.02 with each seed.
    """
    return [
        make_record(
            {
                chr(ord("a") + i): 1.0 - 0.5 * (value + (0.02 * seed if attack != "clean" else 0.0))
                for i, value in enumerate(protections)
            },
            attack=attack,
            defense=defense,
            seed=seed,
            **labels,
        )
        for attack, defenses in learned.items()
        for defense, protections in defenses.items()
        for seed in range(seeds)
    ]


def _scores(
    scores: Mapping[str, float | None],
    tasks: Mapping[str, TaskInfo],
    raw: Mapping[str, float | None],
    add: float,
) -> Scores:
    def better(value: float | None, info: TaskInfo) -> float | None:
        if value is None:
            return None
        floor, perfect = info["floor"][info["scored"]], info["perfect"][info["scored"]]
        if perfect > floor:
            return max(value, min(perfect, value + add))
        return min(value, max(perfect, value - add))

    return {
        task: {tasks[task]["scored"]: better(score, tasks[task])}
        | {tasks[task]["headline"]: better(raw.get(task, score), tasks[task])}
        for task, score in scores.items()
    }


def _costs(attack: str) -> dict[str, Cost]:
    costs = {"train": cost(30.0, 1000.0, 600.0)}
    crafting = ATTACK_COSTS.get(attack)
    return costs | ({"craft": cost(*crafting)} if crafting else {})
