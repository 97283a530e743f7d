"""What a phase costs: wall seconds, throughput, peaks of host and device memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.record import Cost

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MIB = 2**20


class CostMeter:
    """Measures the cost of named phases: the times of a phase add up, its peaks are the largest."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._images: dict[str, int] = {}
        self._host: dict[str, float] = {}
        self._gpu: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str, images: int = 0) -> Iterator[None]:
        """Measure the block as part of a phase that processes the given number of images."""
        _reset_host_peak()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
                peak = torch.cuda.max_memory_allocated(self._device) / _MIB
                self._gpu[name] = max(peak, self._gpu.get(name, 0.0))
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self._images[name] = self._images.get(name, 0) + images
            self._host[name] = max(_host_peak(), self._host.get(name, 0.0))

    def costs(self) -> dict[str, Cost]:
        """Return phase → cost."""
        return {
            name: Cost(
                seconds=round(seconds, 4),
                images_per_s=round(self._images[name] / seconds, 1)
                if self._images[name] and seconds
                else None,
                peak_host_mb=round(self._host[name], 1),
                peak_device_mb=round(self._gpu[name], 1) if name in self._gpu else None,
            )
            for name, seconds in self._seconds.items()
        }


def _reset_host_peak() -> None:
    # The kernel's high-water mark never falls by itself: without this, a second cell in one process would
    # report the peak of the first. If the file cannot be written, peaks are those of the process so far.
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")


def _host_peak() -> float:
    """Return the peak of resident memory in MiB since the last reset (since the start, off Linux)."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MIB if sys.platform == "darwin" else peak / 1024
