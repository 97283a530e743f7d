"""What a run costs beside the work of its items: seconds per cell, and workers without work."""

import io
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.engine.execution import runner
from bench.engine.execution.schedule import Schedule
from bench.engine.executors.inline import Inline
from bench.engine.monitoring.console import show_progress
from bench.engine.monitoring.observer import observe_run
from bench.engine.monitoring.progress import RunProgress
from bench.engine.monitoring.status import publish_status
from bench.engine.planning.durations import TimingLabels, timing_labels
from bench.engine.stages.loaded_data import _checksum_split, _hash_content
from bench.engine.tracking.destinations import find_destinations
from bench.engine.tracking.listener import Tracker
from bench.values import Split
from leaderboard.cell_protection import CellProtections
from leaderboard.live_ranking import LiveRanking
from tests import large
from tests.benchmarks.side_by_side import SideBySide
from tests.engine import tiny
from tests.engine.execution.test_schedule import items_of, take_all

CELL_S = 60.0

FEW: dict[str, list[str | int]] = {"dataset": ["digits"], "weighting": ["ew"], "seed": [0]}
"""A matrix of 225 cells: nine attacks, five backbones, five defenses."""

FEWER: dict[str, list[str | int]] = {**FEW, "backbone": ["small"], "defense": ["none"]}


def do_nothing(item: Any, run_context: Any, progress: Any) -> Any:
    progress("epoch", 0, 1)
    return large.finish(item) if item.kind == "cells" else {}


@pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_run_of_cells_that_do_nothing(
    request: pytest.FixtureRequest, side_by_side: SideBySide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks, logs, records, the display, the status file, the ranking and MLflow."""
    for kind in runner.WORK:
        monkeypatch.setitem(runner.WORK, kind, do_nothing)
    planned = large.plan(**(FEW if request.config.getoption("benchmark_enable") else FEWER))
    progress, context = RunProgress(LiveRanking()), tiny.run_context(tmp_path)
    context.store.prepare()
    [mlflow] = find_destinations(["mlflow"], tmp_path)
    with (
        show_progress(progress, io.StringIO()) as show,
        observe_run(progress, tmp_path),
        publish_status(progress, tmp_path),
        Tracker(mlflow, planned.suite, CellProtections().add, pytest.fail) as tracker,
        Inline() as executor,
    ):
        start = time.perf_counter()
        finished = runner.run_plan(planned, context, executor, [progress, show, tracker])
        each_s = (time.perf_counter() - start) / len(planned.cells)
    assert finished.done == len(planned.cells)
    side_by_side.compare("harness, a cell of 60 s", target=0.99, plain=CELL_S, ours=CELL_S + each_s)


def test_the_check_that_a_part_writes_nothing(side_by_side: SideBySide) -> None:
    """It reads all images of a cell twice."""
    images = torch.randint(256, (2000, 3, 140, 140), dtype=torch.uint8)
    split = Split(images, {"a": torch.zeros(2000, dtype=torch.int64)})
    path = "check that a part writes nothing, 2,000 images of 140 px"
    side_by_side(path, plain=partial(_hash_content, split), ours=partial(_checksum_split, split))


def wave_seconds(items: list[Any], seconds: dict[TimingLabels, float], workers: int) -> float:
    """Return how long items take if each kind waits for the last item of the kind before."""
    by_kind: dict[str, list[Any]] = {}
    for item in items:
        by_kind.setdefault(item.kind, []).append(item)
    even = dict.fromkeys(seconds, 1.0)
    return sum(take_all(Schedule(kind, even), seconds, workers)[1] for kind in by_kind.values())


@pytest.mark.parametrize("workers", [2, 8])
def test_idle_workers(side_by_side: SideBySide, workers: int) -> None:
    """The makespan of 81 items whose times nobody knows before, simulated: kind after kind, and ours."""
    planned = tiny.plan(
        matrix={
            **{"attack": ["clean", "random", "lsp", "ar", "em", "tap", "sep", "mtl-ue-em"]},
            **{"weighting": ["ew", "uw", "dwa"], "defense": ["none", "jpeg", "cutout"], "seed": [0]},
        },
        star=False,
    )
    items, ratios = items_of(planned), list[float]()
    for seed in range(20):
        draw = random.Random(seed)
        seconds = {timing_labels(item): 100 ** draw.random() for item in items}
        ours = take_all(Schedule(items, {}), seconds, workers)[1]
        ratios.append(wave_seconds(items, seconds, workers) / ours)
    mean = sum(ratios) / len(ratios)
    side_by_side.compare(f"makespan, {workers} workers, kind after kind", plain=mean, ours=1.0)


def test_the_order_of_ten_thousand_cells(request: pytest.FixtureRequest, side_by_side: SideBySide) -> None:
    """Beside the time that the cells would take with 16 workers."""
    planned = large.plan(**({} if request.config.getoption("benchmark_enable") else FEWER))
    items = items_of(planned)
    seconds = {timing_labels(item): 1.0 + number % 7 for number, item in enumerate(items)}
    order = partial(take_all, Schedule(items, {}), seconds, 16)
    start = time.perf_counter()
    order()
    took = time.perf_counter() - start
    whole = len(planned.cells) * CELL_S / 16
    side_by_side.compare("order of 10,125 cells of 60 s", target=0.99, plain=whole, ours=whole + took)
