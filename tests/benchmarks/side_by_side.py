"""Speed as a ratio: the plain form of something and ours, timed in turn in one process.

A benchmark asks for the fixture ``side_by_side`` and names what is timed, the target, and both forms::

    def test_regularizers(side_by_side: SideBySide) -> None:
        side_by_side("regularizers, 40 tasks", target=50, plain=loop_over_pairs, ours=one_product, rounds=7)

The forms run in turn, so what else the machine does slows down both. The ratio is the median of the plain
form's seconds divided by the median of ours. Larger is better; 1 means "as fast as the plain form". Nothing
is asserted about time. What is not measured in seconds, or in other processes, is given as two numbers::

    side_by_side.compare("stored poison", target=4, plain=float32_bytes, ours=stored_bytes)

A benchmark that can run on a GPU takes the fixture ``device`` too, and is then run for every device at hand.

``nox -s benchmarks`` prints all ratios as one table and writes them to ``benchmarks.json``. Without
``--benchmark-enable``, as in an ordinary run of the tests, both forms run once, which shows that they work.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from tabulate import tabulate

HEADERS = ("path", "plain", "ours", "ratio", "target", "device")


@dataclass(frozen=True)
class Ratio:
    """How much faster, or smaller, ours is than the plain form of the same.

    Attributes:
        path: what is measured.
        ratio: the plain form's median divided by ours.
        target: the least ratio that is aimed at; None: there is none.
        device: ``cpu``, or the name of a GPU.
        plain: the plain form's median; seconds, if both forms were timed.
        ours: our median.
    """

    path: str
    ratio: float
    target: float | None
    device: str
    plain: float
    ours: float


class SideBySide:
    """Compares two forms of one thing on a device, and keeps the ratio; see the module's description."""

    def __init__(self, benchmark: BenchmarkFixture, device: torch.device, ratios: list[Ratio]) -> None:
        self._benchmark, self._device, self._ratios = benchmark, device, ratios

    def __call__(
        self,
        path: str,
        *,
        plain: Callable[[], object],
        ours: Callable[[], object],
        target: float | None = None,
        rounds: int = 7,
    ) -> None:
        """Time both forms in turn, after one round that does not count."""
        seconds: list[float] = []

        def time_plain() -> None:
            start = time.perf_counter()
            self._run_to_the_end(plain)
            seconds.append(time.perf_counter() - start)

        self._benchmark.group = path
        self._benchmark.pedantic(
            self._run_to_the_end, args=(ours,), setup=time_plain, rounds=rounds, warmup_rounds=1
        )
        if self._benchmark.enabled:
            self._keep(path, target, statistics.median(seconds[1:]), self._benchmark.stats.stats.median)

    def compare(self, path: str, *, plain: float, ours: float, target: float | None = None) -> None:
        """Keep two numbers that were measured by other means."""
        self._benchmark.group = path
        self._benchmark.pedantic(lambda: None)
        if self._benchmark.enabled:
            self._keep(path, target, plain, ours)

    def _run_to_the_end(self, form: Callable[[], object]) -> None:
        form()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _keep(self, path: str, target: float | None, plain: float, ours: float) -> None:
        name = "cpu" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        ratio = Ratio(path, plain / ours, target, name, plain, ours)
        self._ratios.append(ratio)
        self._benchmark.extra_info.update(asdict(ratio))


def write_ratios(file: Path, ratios: Iterable[Ratio]) -> None:
    """Write ratios as a JSON list, one object each."""
    file.write_text(json.dumps([asdict(ratio) for ratio in ratios], indent=2) + "\n", encoding="utf-8")


def tabulate_ratios(ratios: Iterable[Ratio]) -> str:
    """Return ratios as a table in Markdown."""
    rows = [
        (
            ratio.path,
            f"{ratio.plain:.4g}",
            f"{ratio.ours:.4g}",
            f"{ratio.ratio:.2f}",
            ratio.target,
            ratio.device,
        )
        for ratio in ratios
    ]
    return tabulate(rows, HEADERS, tablefmt="github", missingval="–", disable_numparse=True)
