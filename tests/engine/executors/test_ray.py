"""Ray: two real nodes on this machine do what one process does, also where workers and nodes die."""

import contextlib
import importlib.util
import itertools
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.engine.execution.events import Event, ItemFinished, ItemProgress
from bench.engine.execution.runner import run_plan
from bench.errors import BenchError
from bench.values import Progress
from tests.engine import tiny
from tests.engine.execution.chaos import KILLS
from tests.engine.executors.test_executors import (
    assert_ends_with_parent,
    end,
    in_order,
    is_alive,
    python,
    silent,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.xdist_group("ray"),
]

MEMORY = 80 * 2**20
"""Bytes of a node's object store: Ray's least."""

LAST_KILL = 4
"""A node is killed before a run has said so many things while it was at work: always fewer than it says."""

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a node of one CPU, to which others can be added."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # what waits for a worker here is not to wait for all else
        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=head)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def executor(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Join a cluster of two nodes; tests that join by themselves come before those that use it."""
    from bench.engine.executors.ray import Ray

    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    with Ray(tmp_path_factory.mktemp("out"), cluster.address) as found:
        yield found


# -- work, found by its name on the nodes -------------------------------------------------------------------


def note(item: tuple[int, str], progress: Progress) -> tuple[int, int, str]:
    """Say something, and return the square with threads and node; 1 and 2 wait for each other."""
    import ray
    import torch

    number, folder = item
    progress("step", 0, 2)
    if number < 0:
        raise ValueError(f"{number} is negative")
    if number in (1, 2):
        Path(folder, str(number)).touch()
        wait_for(Path(folder, str(3 - number)).exists)
    logging.getLogger("bench.somewhere").warning("mind the gap")
    progress("step", 2, 2)
    return number**2, torch.get_num_threads(), ray.get_runtime_context().get_node_id()


# -- a cluster joined by a test -----------------------------------------------------------------------------


def test_an_address_without_a_cluster(tmp_path: Path) -> None:
    from bench.engine.executors.ray import Ray

    with pytest.raises(BenchError, match=r"cannot join a Ray cluster at 127.0.0.1:1 .*`ray start`"):
        Ray(tmp_path, "127.0.0.1:1").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_what_a_cluster_lacks_is_said(cluster: Any, tmp_path: Path) -> None:
    from bench.engine.executors.ray import Ray

    with pytest.raises(BenchError, match=r"no node of the Ray cluster has 3 CPUs and 0.5 GPUs"):
        Ray(tmp_path, cluster.address, threads=3, gpus=0.5).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_runs_that_lose_nodes(cluster: Any, tmp_path: Path) -> None:
    """Nothing is lost, nothing is there twice, and the numbers are those of one process."""
    from bench.engine.executors.ray import Ray

    matrix = {"attack": ["clean", "random", "tap"], "defense": ["none", "grayscale", "jpeg"]}
    plan = tiny.plan(matrix=matrix)
    tiny.run(plan, tmp_path / "alone")
    rng = random.Random(9)
    for kill in range(KILLS // 12):
        out = tmp_path / f"out{kill}"
        node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        heard, last, killed = itertools.count(), rng.randrange(LAST_KILL), list[psutil.Process]()

        def listen(
            event: Event,
            heard: Iterator[int] = heard,
            last: int = last,
            raylet: psutil.Process = raylet,
            killed: list[psutil.Process] = killed,
        ) -> None:
            if killed or not isinstance(event, ItemProgress | ItemFinished):
                return
            processes = [raylet, *raylet.children(recursive=True)]
            at_work = False
            with contextlib.suppress(psutil.NoSuchProcess):  # some come and go by themselves
                at_work = any(process.name().startswith("ray::_run_task") for process in processes)
            if at_work and next(heard) == last:
                killed.extend(processes)
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()

        ran = tiny.Ran()
        with Ray(out, cluster.address) as executor:
            ran.finished = run_plan(plan, tiny.run_context(out), executor, [ran.events.append, listen])
        assert killed
        assert ran.counts == (len(plan.cells), 0, 0)
        assert sorted(ran.labels("cells")) == sorted(cell.label for cell in plan.cells)
        assert tiny.results(out) == tiny.results(tmp_path / "alone")
        wait_for(lambda killed=killed: not any(is_alive(process.pid) for process in killed))
    print({"kills of nodes": KILLS // 12})


# -- the shared one -----------------------------------------------------------------------------------------


def test_both_nodes_work(executor: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told, pulled = [], []

    def items() -> Iterator[tuple[int, str]]:
        for number in (1, 2, -1, 3, 4):
            pulled.append(number)
            yield number, str(tmp_path)

    outcomes = executor.map(note, in_order(items()), lambda item, *step: told.append((item[0], *step)))
    first = next(outcomes)
    assert len(pulled) < 5  # as many as there are CPUs, not all
    found = {outcome.item[0]: outcome for outcome in (first, *outcomes)}
    assert sorted(found) == sorted(pulled) == [-1, 1, 2, 3, 4]
    results = {number: outcome.result for number, outcome in found.items() if number > 0}
    assert {number: result[:2] for number, result in results.items()} == {n: (n**2, 1) for n in (1, 2, 3, 4)}
    assert results[1][2] != results[2][2]
    assert found[-1].failure["message"] == "-1 is negative"
    assert "in note" in found[-1].failure["traceback"]
    assert {(number, "step", done, 2) for number in results for done in (0, 2)} <= set(told)
    assert {record.getMessage() for record in caplog.records if record.name == "bench"} == {"mind the gap"}


def test_a_node_that_does_not_see_the_folder_ends_the_run(executor: Any) -> None:
    (hidden,) = executor._out.iterdir()
    hidden.rename(hidden.with_name("moved"))
    try:
        with pytest.raises(BenchError, match=rf"does not see {hidden} .*that all nodes share"):
            list(executor.map(note, in_order([(3, "")]), silent))
    finally:
        hidden.with_name("moved").rename(hidden)


def test_an_item_that_kills_its_worker(executor: Any, tmp_path: Path) -> None:
    items = [(what, str(tmp_path)) for what in ("once", "always", "never", "neither")]
    found = {outcome.item[0]: outcome for outcome in executor.map(end, in_order(items), silent)}
    assert {what for what, outcome in found.items() if outcome.result == what} == {"once", "never", "neither"}
    assert found["always"].failure["type"] == "WorkerDied"
    assert [(tmp_path / what).read_text() for what, _ in items] == ["xx", "xx", "x", "x"]


def test_an_item_that_hangs(executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_limit_s", 1)
    (outcome,) = executor.map(end, in_order([("hang", str(tmp_path))]), silent)
    assert outcome.failure["message"] == "it took longer than the time limit of 1 s"
    assert (tmp_path / "hang").read_text() == "x"


# -- a Ray of this machine ----------------------------------------------------------------------------------


KILLED = """
import sys
from pathlib import Path
from bench.engine.executors.ray import Ray
from tests.engine.executors.test_executors import in_order, silent, sleep
if __name__ == "__main__":
    with Ray(Path(sys.argv[1]), jobs=1) as executor:
        list(executor.map(sleep, in_order(sys.argv[2:]), silent))
"""


def test_nothing_of_a_local_ray_outlives_a_killed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    items = [str(tmp_path / "second")]
    assert_ends_with_parent(python(KILLED, str(tmp_path), *items), items)
