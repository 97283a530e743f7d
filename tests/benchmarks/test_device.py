"""What repeatable bits cost on a GPU: `nox -s benchmarks -- -k repeatable -s`, on a machine that has one."""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.record import Record, read_records
from tests.benchmarks.test_scale import bench

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

COMMAND = ("run", "--suite", "nightly", "--only", "backbone=resnet18", "--only", "seed=0", "--device", "cuda")


def run(out: Path, *options: str) -> dict[str, Record]:
    """Run a clean and a poisoned ResNet-18 in a process of their own; return the records by attack."""
    bench(*COMMAND, "--no-track", "--out", str(out), *options)
    return {str(record.cell["attack"]): record for record in read_records(out / "records")}


@pytest.mark.benchmark(group="surrogate, poison and two cells on a GPU")
@pytest.mark.parametrize("options", [(), ("--deterministic",)], ids=["fastest", "repeatable"])
def test_repeatable_bits(benchmark: BenchmarkFixture, tmp_path: Path, options: tuple[str, ...]) -> None:
    rounds = iter(range(4))
    ran: list[dict[str, Record]] = []

    def once() -> None:
        ran.append(run(tmp_path / str(next(rounds)), *options))

    benchmark.pedantic(once, rounds=3, warmup_rounds=1)
    for attack, record in ran[0].items():
        for phase in record.cost:
            seconds = min(records[attack].cost[phase]["seconds"] for records in ran[1:])
            benchmark.extra_info[f"{attack}: {phase}, s"] = seconds
        if options:
            assert all(records[attack].curve == record.curve for records in ran)
