"""Batches of a split, and splits on the device."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.memory import allocate_zeros
from bench.values import Batch, Split

SCORING_BATCH = 1024
"""Images scored at a time, if they are small; changes speed and memory, not results."""


def select_rows(split: Split, rows: Tensor) -> Split:
    """Return some of a split's images and labels, by row numbers or by a mask."""
    numbers = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    targets = {name: _copy_rows(target, numbers) for name, target in split.targets.items()}
    return Split(_copy_rows(split.images, numbers), targets)


def _copy_rows(values: Tensor, numbers: Tensor) -> Tensor:
    picked = allocate_zeros((len(numbers), *values.shape[1:]), values.dtype)
    for place in torch.arange(len(numbers)).split(SCORING_BATCH):
        picked[place] = values[numbers[place]]
    return picked


DEVICE_MEMORY_SHARE = 0.5
"""Largest share of a GPU's free memory that images may take; the rest is for networks."""


def to_device_if_it_fits(split: Split, device: torch.device) -> Split:
    """Return the split on the device if it fits there; else unchanged, to be copied batch by batch."""
    if device.type != "cuda":
        return split
    size = sum(values.nbytes for values in (split.images, *split.targets.values()))
    if size > DEVICE_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        return split
    targets = {name: target.to(device) for name, target in split.targets.items()}
    return Split(split.images.to(device), targets)


Crop = Callable[[Split], Split]
"""Crops images, and the targets of dense tasks."""


def make_batch(split: Split, index: Tensor, device: torch.device, crop: Crop | None = None) -> Batch:
    """Return some rows of a split as floats in [0, 1] on the device, or what is made of them by cropping.

    The stored bytes are cropped: a quarter of the memory to copy, and the floats are the same.
    """
    rows = index.to(split.images.device, non_blocking=True)

    def pick(values: Tensor) -> Tensor:
        return values.index_select(0, rows).to(device, non_blocking=True)

    picked = Split(pick(split.images), {task: pick(target) for task, target in split.targets.items()})
    seen = picked if crop is None else crop(picked)
    targets = {task: _to_compute_dtype(target) for task, target in seen.targets.items()}
    return Batch(seen.images.float().div_(255), targets, index)


def _to_compute_dtype(target: Tensor) -> Tensor:
    """Return a target in the type that losses take; label maps are stored in fewer bits."""
    return target.float() if target.is_floating_point() else target.long()


class ResumableLoader:
    """A split in batches, pass after pass, with a position that can be saved and restored.

    Iterating continues from the position to the end of the pass. A new pass draws its order.

    Attributes:
        position: number of batches of the current pass that were yielded.
    """

    def __init__(
        self, split: Split, size: int, device: torch.device, shuffle: bool, crop: Crop | None = None
    ) -> None:
        self.position = 0
        self._split, self._size, self._device, self._shuffle = split, size, device, shuffle
        self._crop = crop
        self._order = torch.arange(len(split))

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return len(split_without_singleton(self._order, self._size))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the pass."""
        if self.position == 0 and self._shuffle:
            self._order = torch.randperm(len(self._split))
        for index in split_without_singleton(self._order, self._size)[self.position :]:
            self.position += 1
            yield make_batch(self._split, index, self._device, self._crop)

    def endless(self) -> Iterator[Batch]:
        """Yield batches of pass after pass without end."""
        while True:
            yield from self
            self.position = 0

    def state(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self.position, "order": self._order}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a position."""
        self.position, self._order = int(state["position"]), state["order"]


def iterate_batches(
    split: Split, size: int, device: torch.device, shuffle: bool, crop: Crop | None = None
) -> Iterator[Batch]:
    """Yield the split once in batches; the last one may be smaller, or larger by one."""
    return iter(ResumableLoader(split, size, device, shuffle, crop))


def split_without_singleton(order: Tensor, size: int) -> list[Tensor]:
    """Return the rows in batches; a last batch of one row joins the batch before it."""
    chunks = list(order.split(size))
    if len(chunks) > 1 and len(chunks[-1]) == 1:  # batch normalization cannot train on a single image
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks
