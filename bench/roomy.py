"""Arrays as large as a set of images, which need not fit in memory."""

import math
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import psutil
import torch
from torch import Tensor

from bench.errors import BenchError

SHARE = 0.25
"""Most of the free memory that one array may take."""


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory, or where they would take too much of it, in a temporary file.

    The file has no name and is gone with the array; ``TMPDIR`` says in which folder it is.

    Raises:
        BenchError: when the file's disk is full.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= SHARE * psutil.virtual_memory().available:
        return torch.zeros(tuple(shape), dtype=dtype)
    try:
        with tempfile.TemporaryFile() as file:
            _reserve(file.fileno(), size)
            values = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
    except OSError as error:
        folder = tempfile.gettempdir()
        raise BenchError(
            f"an array of {size / 2**30:.3g} GiB fits neither in memory nor in {folder}: "
            f"{error.strerror or error}; set TMPDIR to a folder with more room"
        ) from error
    return torch.from_numpy(values).view(dtype).view(tuple(shape))


def _reserve(file: int, size: int) -> None:
    """Take the room now: where the disk is full, writing to a mapped page would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
