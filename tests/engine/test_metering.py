"""What a phase costs: seconds and images add up, memory peaks are each phase's own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.engine import metering
from bench.engine.metering import Meter

CPU = torch.device("cpu")
CLEAR = Path("/proc/self/clear_refs")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until its one value is changed."""
    now = [100.0]
    monkeypatch.setattr(metering, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def test_phases_add_up(clock: list[float]) -> None:
    meter = Meter(CPU)
    for seconds in (1.0, 2.5):
        with meter.phase("train", images=70):
            clock[0] += seconds
        clock[0] += 10  # nobody's
    with meter.phase("score"):
        clock[0] += 0.25
    costs = meter.costs()
    assert list(costs) == ["train", "score"]
    assert costs["train"]["seconds"] == 3.5
    assert costs["train"]["images_per_s"] == 40
    assert costs["score"]["seconds"] == 0.25
    assert costs["score"]["images_per_s"] is None
    assert costs["train"]["peak_device_mb"] is None


def test_a_phase_that_takes_no_time_has_no_throughput(clock: list[float]) -> None:
    meter = Meter(CPU)
    with meter.phase("poison", images=5):
        pass
    assert meter.costs()["poison"]["images_per_s"] is None


def test_a_phase_that_fails_has_its_cost(clock: list[float]) -> None:
    meter = Meter(CPU)

    def fail() -> None:
        with meter.phase("craft"):
            clock[0] += 2
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert meter.costs()["craft"]["seconds"] == 2


def test_a_phases_peak_is_its_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks: Iterator[float] = iter((300.0, 500.04, 400.0))
    monkeypatch.setattr(metering, "_host_peak", lambda: next(peaks))
    meter = Meter(CPU)
    for _ in range(3):
        with meter.phase("train"):
            pass
    assert meter.costs()["train"]["peak_host_mb"] == 500.0


def test_meters_do_not_share() -> None:
    first, second = Meter(CPU), Meter(CPU)
    with first.phase("train"):
        pass
    assert second.costs() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's mark of the peak is Linux's")
def test_a_later_phase_does_not_have_an_earlier_ones_peak() -> None:
    if not os.access(CLEAR, os.W_OK):
        pytest.skip(f"{CLEAR} cannot be written to")
    meter = Meter(CPU)
    with meter.phase("large"):
        block = bytearray(200 * 2**20)
        block[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(block[:: os.sysconf("SC_PAGE_SIZE")])
        del block
    with meter.phase("small"):
        pass
    costs = meter.costs()
    large, small = costs["large"]["peak_host_mb"], costs["small"]["peak_host_mb"]
    assert large is not None
    assert small is not None
    assert large - small > 150


def test_without_the_kernels_mark_the_peak_is_the_processs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(metering, "_STATUS", tmp_path / "nowhere")
    monkeypatch.setattr(metering, "_CLEAR", tmp_path)  # a folder: writing fails
    meter = Meter(CPU)
    with meter.phase("train"):
        pass
    peak = meter.costs()["train"]["peak_host_mb"]
    assert peak is not None
    assert 10 < peak < 1e6
