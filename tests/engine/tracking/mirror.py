"""Records to track, and what a tracking store shows of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.engine.tracking.destinations import find_destinations
from bench.engine.tracking.listener import Tracker, rebuild_mirror
from bench.engine.tracking.mlflow_store import MLflowStore
from bench.engine.tracking.record_to_mlflow import ATTACK_TAG, SUITE_TAG
from bench.engine.tracking.sink import Destination, TrackedBoard
from bench.record import AXES, Epoch, Record
from leaderboard.cell_protection import CellProtections

FINISHED = "2026-03-01T12:00:00+00:00"


def make_record(key: str = "a1", suite: str = "smoke", epochs: int = 3, **changes: Any) -> Record:
    def scores(accuracy: float) -> dict[str, dict[str, float | None]]:
        return {"age": {"accuracy": accuracy, "auroc": None}, "skin: tone?": {"accuracy": accuracy / 2}}

    curve = [
        Epoch(
            epoch=epoch,
            train_loss=None if epoch == 2 else 1 / epoch,
            learning_rate=0.1,
            weights={"age": 0.5},
            scores=scores(epoch / 10),
            **({"validation": {"age": epoch / 8}} if epoch > 1 else {}),  # type: ignore[typeddict-item]
        )
        for epoch in range(1, epochs + 1)
    ]
    labels: tuple[str | int, ...] = ("digits", "em", "small", "ew", "jpeg(quality=30)", "mtl", 4)
    cost = {"images_per_s": None, "peak_host_mb": 7.0, "peak_device_mb": None}
    record = Record(
        key=key,
        status="done",
        suite=suite,
        cell=dict(zip(AXES, labels, strict=True)),
        victim="victim",
        poison="poison",
        settings={
            "attack": {"name": "em", "version": 2, "params": {"steps": [1, 2], "rounding": None}},
            "epsilon": 8,
            "surrogate": {},
            "recipe": {"note": "x" * 7000, "k" * 300: True},
        },
        scores=scores(0.3),
        peak=scores(0.4),
        curve=curve,
        noise={
            "linf": 8.0,
            "psnr": None,
            "tasks": {
                "age": {
                    "intra_spread": 0.5,
                    "inter_distance": 1.5,
                    "linear_accuracy": None,
                    "linear_balanced_accuracy": None,
                    "linear_floor": None,
                }
            },
        },
        cost={"craft": {"seconds": 100.0, **cost}, "train": {"seconds": 20.5, **cost}},  # type: ignore[typeddict-item]
        environment={"data": "0123456789abcdef"},
        finished=FINISHED,
    )
    return dataclasses.replace(record, **changes)


def make_failed(key: str, suite: str = "smoke") -> Record:
    error = {"type": "ValueError", "message": "no " + "é" * 6000, "traceback": "Traceback"}
    return make_record(
        key, suite, status="failed", error=error, curve=[], scores={}, peak={}, noise={}, cost={}
    )


def mlflow(uri: str, artifact_folder: Path | None = None) -> Destination:
    [destination] = find_destinations(["mlflow"], Path("nowhere"), uri)
    return dataclasses.replace(destination, connect=lambda: MLflowStore(uri, artifact_folder))


def make_tracker(uri: str, suite: str, folder: Path | None, notify: Callable[[str], None]) -> Tracker:
    return Tracker(mlflow(uri, folder), suite, CellProtections().add, notify)


def rebuild(
    uri: str,
    records: Iterable[Record],
    folder: Path | None = None,
    files: Mapping[str, bytes] | None = None,
    **board: Any,
) -> tuple[int, int, int]:
    """Return how many runs of cells were added, kept and replaced."""
    cells = rebuild_mirror(mlflow(uri, folder), records, TrackedBoard(files or {}, **board))
    return cells["added"], cells["kept"], cells["replaced"]


def runs_of(uri: str, suite: str) -> list[Any]:
    """Return the runs of a suite's cells, nested in the one run of their attack, beside the suite's."""
    runs = all_runs(uri, suite)
    parents = [run for run in runs if SUITE_TAG in run.data.tags]
    cells = [run for run in runs if run not in parents]
    attacks = {run.info.run_id: run.data.tags.get(ATTACK_TAG) for run in parents}
    for cell in cells:
        assert attacks[cell.data.tags["mlflow.parentRunId"]] == cell.data.tags["attack"]
    assert len(set(attacks.values())) == len(parents)
    assert [None] * bool(runs) == [attack for attack in attacks.values() if attack is None]
    return cells


def all_runs(uri: str, suite: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(suite)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def history(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, metric)
    return [(point.step, point.value) for point in points]
