"""The device: bit-identical computation if asked for, and what to do when its memory is full."""

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from bench.errors import BenchError

T = TypeVar("T")

PIECES = (1, 2)
"""Into how many pieces the batches of a training are split, attempt after attempt."""

logger = logging.getLogger(__name__)


def train_within_memory(train: Callable[[int], T], name: str, batch: int) -> tuple[T, int]:
    """Train a network; if the device's memory is too small, train it again with every batch in two halves.

    Args:
        train: trains it from the start, with batches split into the given number of pieces (`MultiTaskNet`).
        name: what is trained, for the messages.
        batch: images per step.

    Returns:
        The result of the training, and the number of pieces.

    Raises:
        BenchError: when the memory is too small for halves as well.
    """
    for pieces in PIECES:
        try:
            return train(pieces), pieces
        except torch.OutOfMemoryError:
            pass  # the error keeps the frames that hold the network; after this block it is gone
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if pieces < PIECES[-1]:
            logger.warning(
                "%s: the device's memory is too small for batches of %d images; training again with every "
                "batch in two halves, each normalized by itself",
                name,
                batch,
            )
    raise BenchError(
        f"the device's memory is too small to train {name} with batches of {batch} images, even in halves; "
        f"lower recipe.batch (--set recipe.batch={max(1, batch // 4)}) or choose a smaller backbone"
    )


def free_gpu_memory() -> dict[str, int]:
    """Return the bytes that are free on each GPU, by its name in ``CUDA_VISIBLE_DEVICES``."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    return {name.strip(): torch.cuda.mem_get_info(number)[0] for number, name in enumerate(names)}


@contextlib.contextmanager
def explain_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Replace torch's out-of-memory error by one sentence that says what to change.

    Raises:
        BenchError: when the block runs out of the device's memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BenchError(f"the device's memory is too small for {what}; {remedy}") from error


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Make CUDA use only algorithms that give the same bits every time, if enabled.

    An operation without such an algorithm raises torch's RuntimeError, which names it. Must be entered before
    the process first multiplies matrices on CUDA.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when cuBLAS starts
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]
