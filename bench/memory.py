"""Arrays as large as a set of images, which may not fit in memory."""

import contextlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.text import format_bytes

MAX_IMAGES, MAX_VALUES = 512, 2**20
"""Largest number of images, and of pixel values, that are processed at a time.

As floats they take 4 MiB, which was measured to be fastest. A guess: the system gives larger temporary arrays
new pages each time, which takes longer than the computation.
"""

CGROUPS = Path("/sys/fs/cgroup")

SHARE = 0.25
"""Largest share of the free memory that one array may take."""


def allocate_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory, or in a temporary file if they would take too much of it.

    The file has no name and is deleted with the array; ``TMPDIR`` names its folder.

    Raises:
        BenchError: when the file's disk is full.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= SHARE * _free_memory():
        return torch.zeros(tuple(shape), dtype=dtype)
    try:
        with tempfile.TemporaryFile() as file:
            _reserve_disk_space(file.fileno(), size)
            values = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
    except OSError as error:
        folder = tempfile.gettempdir()
        raise BenchError(
            f"an array of {size / 2**30:.3g} GiB fits neither in memory nor in {folder}: "
            f"{error.strerror or error}; set TMPDIR to a folder with more space"
        ) from error
    return torch.from_numpy(values).view(dtype).view(tuple(shape))


def require_memory(what: str, size: int) -> None:
    """Check that something fits in memory before it is made: the system would kill the process that tries.

    Args:
        what: a name for people.
        size: in bytes.

    Raises:
        BenchError: if it does not fit.
    """
    if size > (free := _free_memory()):
        needed = format_bytes(size)
        raise BenchError(
            f"{what} needs {needed} of memory, but only {format_bytes(free)} are free; make it smaller"
        )


def _free_memory() -> float:
    return min(psutil.virtual_memory().available, _container_memory_limit())


def rows_per_chunk(images: Tensor) -> int:
    """Return how many of these images [n c h w] to process at a time; it changes no result."""
    return max(1, min(MAX_IMAGES, MAX_VALUES // max(1, images[:1].numel())))


def _container_memory_limit() -> float:
    """Return the memory limit of this process's container (Linux control group) in bytes."""
    limits = [math.inf]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for path in (group.lstrip("/"), ""):  # inside a container, its own group is the root
                file = CGROUPS / "memory" / path / "memory.limit_in_bytes"
                if not controllers:  # version 2 has one hierarchy, without a name
                    file = CGROUPS / path / "memory.max"
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int(file.read_text()))
    return min(limits)


def _reserve_disk_space(file: int, size: int) -> None:
    """Reserve the space now: if the disk is full, writing to a mapped page would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
