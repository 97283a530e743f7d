"""What is asked of a device: the same bits every time; and what is done when its memory is full."""

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
"""Into how many pieces a training's batches go, try after try."""

_log = logging.getLogger(__name__)


def train_within_memory(train: Callable[[int], T], who: str, batch: int) -> tuple[T, int]:
    """Train a network and, if the device's memory does not suffice, once more with every batch in halves.

    Args:
        train: does it from the start, with so many pieces of a batch (`MultiTaskNet`).
        who: what is trained, for the messages.
        batch: images per step.

    Returns:
        What the training returned, and the number of pieces.

    Raises:
        BenchError: when halves are too large as well.
    """
    for pieces in PIECES:
        try:
            return train(pieces), pieces
        except torch.OutOfMemoryError:
            pass  # below, the error is gone, and with it the frames that held the network
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if pieces < PIECES[-1]:
            _log.warning(
                "%s: the device's memory does not suffice for batches of %d images; trained again with each "
                "in two halves, which batch normalization sees by themselves",
                who,
                batch,
            )
    raise BenchError(
        f"the device's memory does not suffice to train {who} with batches of {batch} images, nor in halves; "
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
    """Say in one sentence what the device's memory does not suffice for, and what helps.

    Raises:
        BenchError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BenchError(f"the device's memory does not suffice for {what}; {remedy}") from error


@contextlib.contextmanager
def deterministic_algorithms(asked: bool) -> Iterator[None]:
    """Have CUDA compute, if asked, in ways that give the same bits every time.

    An operation without such a way then raises torch's RuntimeError, which names it. Must be entered before
    the process first multiplies matrices on CUDA.
    """
    if not asked:
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
