"""The fixtures of the benchmarks, and their one table; `side_by_side` says how to write one."""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.side_by_side import Ratio, SideBySide, tabulate_ratios, write_ratios

RATIOS = pytest.StashKey[list[Ratio]]()
FILE = "benchmarks.json"


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return every device at hand, one after the other."""
    return torch.device(request.param)


@pytest.fixture
def side_by_side(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> SideBySide:
    """Return what times two forms of one thing, on the device of the test or else on the CPU."""
    asks = "device" in request.fixturenames
    chosen = request.getfixturevalue("device") if asks else torch.device("cpu")
    return SideBySide(benchmark, chosen, request.config.stash.setdefault(RATIOS, []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print all ratios as one table and write them to a file in the current folder."""
    if ratios := config.stash.get(RATIOS, []):
        write_ratios(Path(FILE), ratios)
        terminalreporter.write_line(f"\n{tabulate_ratios(ratios)}\n\nwritten to {FILE}")
