"""What a weighting costs beside equal weights: a training step's seconds, and the peak of memory.

`nox -s benchmarks` compares them for four tasks. ``python -m tests.benchmarks.test_weightings small 3 14 40``
prints a table for that backbone and these numbers of tasks, memory included, each measured in a process of
its own. Its seconds are those the process computed, so that other programs do not count.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable

import pytest
import torch
from tabulate import tabulate

from bench.api import Step
from bench.catalog.build import build_part
from bench.catalog.parts import CATALOG
from bench.engine.stages.cost import CostMeter
from bench.tasks.classification import Classification
from bench.training.loop import losses_of_outputs
from bench.training.net import MultiTaskNet
from tests.benchmarks.side_by_side import SideBySide

CPU = torch.device("cpu")
BATCH = 128
CLIP_NORM = 5.0
ENOUGH_S = 10.0
"""No further step is timed after so many seconds."""
WEIGHTINGS = (*CATALOG["weighting"], "mgda(gradients=features)", "nash-mtl(gradients=features)")


def training_step(backbone: str, weighting: str, count: int) -> Callable[[], None]:
    """A training step on random images of 32 × 32 pixels with this many binary tasks."""
    torch.manual_seed(0)
    tasks = tuple(Classification(str(number), ("a", "b")) for number in range(count))
    net = MultiTaskNet(build_part("backbone", backbone), tasks, (3, 32, 32)).train()
    images = torch.rand(BATCH, 3, 32, 32)
    targets = {task.name: torch.randint(0, 2, (BATCH,)) for task in tasks}
    labeled = torch.ones(count, dtype=torch.bool)
    balancer = build_part("weighting", weighting).start(tasks, CPU)
    optimizer = torch.optim.Adam([*net.parameters(), *balancer.parameters()], lr=1e-3)

    @torch.no_grad()
    def again() -> torch.Tensor:
        return losses_of_outputs(net(images), tasks, targets)

    def step() -> None:
        features = net.encode(images)
        losses = losses_of_outputs(net.apply_heads(features, images), tasks, targets)
        optimizer.zero_grad(set_to_none=True)
        taken = Step(losses, labeled, features, net.shared_parameters(), again)
        balancer.backward(taken)
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        balancer.finish_step(taken)

    return step


@pytest.mark.parametrize("weighting", [weighting for weighting in WEIGHTINGS if weighting != "ew"])
def test_step(side_by_side: SideBySide, weighting: str) -> None:
    side_by_side(
        f"training step with {weighting}, 4 tasks, small, beside equal weights",
        plain=training_step("small", "ew", 4),
        ours=training_step("small", weighting, 4),
        rounds=5,
    )


def measure(backbone: str, weighting: str, count: int) -> tuple[float, float]:
    """Return the median seconds of up to five steps after the first, and the peak of memory in MiB."""
    torch.set_num_threads(1)
    step = training_step(backbone, weighting, count)
    step()
    seconds: list[float] = []
    meter = CostMeter(CPU)
    with meter.phase("steps"):
        while len(seconds) < 5 and sum(seconds) < ENOUGH_S:
            start = time.process_time()
            step()
            seconds.append(time.process_time() - start)
    return statistics.median(seconds), meter.costs()["steps"]["peak_host_mb"] or 0.0


def main(backbone: str, *counts: str) -> None:
    """Print the table of a backbone."""
    rows = []
    for weighting in WEIGHTINGS:
        row = [weighting]
        for count in map(int, counts):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak = pool.apply(measure, (backbone, weighting, count))
            row += [f"{seconds:.3f}", f"{peak:.0f}"]
        rows.append(row)
        print(" ".join(row), file=sys.stderr, flush=True)
    headers = ["weighting", *(f"{what}, {count} tasks" for count in counts for what in ("s", "MiB"))]
    print(tabulate(rows, headers, tablefmt="github"))


if __name__ == "__main__":
    main(*sys.argv[1:])
