"""AR: noise from autoregressive processes, one process per class."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from baselines.crafting.lift import ImageCell, Lift, Signal, assign_cells, lift_samplewise
from baselines.crafting.noise_table import Rows
from bench.api import CraftContext, Norm
from bench.errors import BenchError
from bench.tasks.classification import require_classification
from bench.values import Split

SIDE, VALUES = 32, 3 * 32 * 32
"""Side and number of values of the images the paper's limits are for."""

MAX_NORM = 50.0
"""Largest norm of a stable process's unscaled signal of `VALUES` values; with a larger norm it diverges."""

TEST_SIGNALS = 3
"""Signals of a process that must keep below it."""

BLOCK = 256
"""Processes drawn at a time; another number gives other processes."""

FILTER = 3
"""Side of a filter, and of the smallest signal that it can be applied to."""


@dataclass(frozen=True)
class AR:
    """Autoregressive noise: every value is a fixed mix of its eight neighbors above and to the left.

    Each class has its own process, and each image a signal of its class's process. The first layer of a
    convolutional network can learn the process; people see texture.

    Source: Sandoval-Segura et al., NeurIPS 2022, arXiv:2206.03693, section 3, and the coefficient
    search of its public code

    Departs from the paper: the budget clamps each value, which the paper leaves free below its L2 norm (as
    `ARL2` does); a task's noise is drawn at its cell's size, and processes need to differ only from those of
    the same cell. They are told apart at the cell's size too, up to 32 pixels; in a larger cell they must not
    diverge, else its noise is all in one corner. Limits are in proportion to the values, or to a filter's
    positions.

    Attributes:
        strength: L2 norm of the noise of 3·32·32 values at the default budget of 8/255, or of norm 1.0, and
            in proportion to the budget; more values have more, as the square root.
        crop: rows and columns cut off at the top and the left, where a signal starts.
        draws: cap on the processes drawn to find stable ones for a cell.
        lift: how the noises of several tasks share an image.
    """

    strength: Annotated[float, Gt(0)] = 1.0
    crop: Annotated[int, Ge(2)] = 4
    draws: Annotated[int, Ge(1)] = 1_000_000
    lift: Lift = "patch"
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 3

    def craft(self, train: Split, context: CraftContext) -> Rows:
        """Find a process for every class and draw a signal for every image and task."""
        layout = assign_cells(require_classification(context.tasks, "attack 'ar'"), self.lift, train)
        classes = Counter[ImageCell]()
        for task, cell in zip(layout.tasks, layout.cells, strict=True):
            classes[cell] += task.classes
        unused: dict[ImageCell, Tensor] = {}
        for cell, count in classes.items():
            context.progress("cell", len(unused), len(classes))
            shape = (train.images.shape[1], *cell.signal_size)
            unused[cell] = find_processes(count, shape=shape, crop=self.crop, draws=self.draws)
        signals = []
        for task, cell in zip(layout.tasks, layout.cells, strict=True):
            processes, unused[cell] = unused[cell].tensor_split([task.classes])
            signals.append(self._signal_of_cell(processes, cell, context))
        return lift_samplewise(train, layout, signals, context)

    def _signal_of_cell(
        self, processes: Float[Tensor, "k c 3 3"], cell: ImageCell, context: CraftContext
    ) -> Signal:
        processes = processes.to(context.device)
        norm = context.scale_strength(255 * self.strength)

        def signal(rows: Int64[Tensor, " m"], labels: Int64[Tensor, " m"]) -> Tensor:
            classes, counts = labels.unique(return_counts=True)
            sorted_by_label = [
                draw_signals(process[None], count, *cell.signal_size, self.crop)[0]
                for process, count in zip(
                    processes[classes.to(processes.device)], counts.tolist(), strict=True
                )
            ]
            order = labels.argsort(stable=True).argsort().to(processes.device)
            drawn = torch.cat(sorted_by_label)[order]
            return drawn * (norm * math.sqrt(drawn[0].numel() / VALUES) / signal_norms(drawn))

        return signal


@dataclass(frozen=True)
class ARL2(AR):
    """Autoregressive noise with its paper's budget: for the norm of an image's δ, not for single values.

    Source: Sandoval-Segura et al., NeurIPS 2022, arXiv:2206.03693, sections 3 and 4: δ = ε·s / ‖s‖ with ε = 1
    on images of 3·32·32 values

    Departs from the paper: several tasks share an image's budget, each by the number of values of its cell,
    and each task's noise is drawn at its cell's size, as `AR` has it.
    """

    norm: ClassVar[Norm | None] = "l2"


def find_processes(
    count: int, *, shape: tuple[int, int, int], crop: int, draws: int
) -> Float[Tensor, "count c 3 3"]:
    """Draw processes until ``count`` of them are stable and differ from each other.

    A process is stable if its signals of this shape [c h w] do not diverge. It differs from the earlier ones
    if their filters respond to its signal, up to 32 pixels of it: by 10 for up to ten processes, by 3 for
    more.

    Raises:
        BenchError: when ``draws`` are too few.
    """
    channels, height, width = shape
    tall, wide = (min(max(side, FILTER), SIDE) for side in (height, width))
    positions = (tall - FILTER + 1) * (wide - FILTER + 1) / (SIDE - FILTER + 1) ** 2
    least = (10.0 if count <= 10 else 3.0) * channels / 3 * positions
    found = torch.zeros(0, channels, FILTER, FILTER)
    drawn = 0
    while len(found) < count:
        if drawn >= draws:
            raise BenchError(
                f"attack 'ar' found {len(found)} of {count} processes for a cell of {height}×{width} pixels "
                f"in {drawn} draws; raise its parameter 'draws'"
            )
        block = min(BLOCK, draws - drawn)
        drawn += block
        processes, signals = draw_stable_processes(block, (channels, tall, wide), crop)
        kept = (filter_responses(signals, found) >= least).all(1)
        if max(height, width) > SIDE and kept.any():
            kept[kept.clone()] = stays_bounded(processes[kept], height, width, crop)
        processes, signals = processes[kept], signals[kept]
        while len(processes) and len(found) < count:
            found = torch.cat([found, processes[:1]])
            kept = (filter_responses(signals, found[-1:]) >= least).all(1)
            kept[0] = False
            processes, signals = processes[kept], signals[kept]
    return found


def draw_stable_processes(
    count: int, shape: tuple[int, int, int], crop: int
) -> tuple[Float[Tensor, "m c 3 3"], Float[Tensor, "m c h w"]]:
    """Draw processes; return those that do not diverge at this shape [c h w], each with one of its signals.

    A process diverges if one of its channels does, so processes are put together from stable channels: they
    have the same distribution as stable ones that are drawn whole, and fewer draws are wasted.
    """
    channels, height, width = shape
    kernels = torch.randn(count * channels, 3, 3)
    kernels[:, 2, 2] = 0
    kernels /= kernels.sum((1, 2), keepdim=True)
    signals = torch.stack([draw_channels(kernels, height, width, crop) for _ in range(TEST_SIGNALS)])
    squares = signals.square().sum((2, 3))
    norm = math.sqrt(math.prod(shape) / VALUES)
    limit = (MAX_NORM * norm) ** 2
    (stable,) = torch.where((squares <= limit).all(0))
    stable = stable[: len(stable) // channels * channels].view(-1, channels)
    stable = stable[(squares[:, stable].sum(2) <= limit).all(0)]
    signals = signals[0][stable]
    return kernels[stable], signals * (norm / signal_norms(signals))


def stays_bounded(
    processes: Float[Tensor, "m c 3 3"], height: int, width: int, crop: int
) -> Bool[Tensor, " m"]:
    """Return which processes do not diverge at this size."""
    limit = MAX_NORM * math.sqrt(processes.shape[1] * height * width / VALUES)
    signals = draw_signals(processes, TEST_SIGNALS, height, width, crop)
    return (signal_norms(signals.flatten(0, 1)).view(-1, TEST_SIGNALS) <= limit).all(1)


def filter_responses(
    signals: Float[Tensor, "m c h w"], processes: Float[Tensor, "f c 3 3"]
) -> Float[Tensor, "m f"]:
    """Return how strongly every process's filter responds to every signal; 0 for its own signal."""
    filters = processes.clone()
    filters[:, :, 2, 2] = -1
    windows = functional.unfold(signals, 3)
    return (filters.flatten(1) @ windows).relu().sum(2)


def draw_signals(
    processes: Float[Tensor, "k c 3 3"], count: int, height: int, width: int, crop: int
) -> Float[Tensor, "k m c h w"]:
    """Draw ``count`` signals of every process: two rows and columns at random, the rest row by row.

    ``crop`` extra rows and columns are computed, and cut off at the top and the left.
    """
    height, width = height + crop, width + crop
    matrices = row_matrices(processes, width).mT.contiguous()
    signal = processes.new_empty(*processes.shape[:2], count, height, width)
    signal[..., :2, :] = torch.randn(*signal.shape[:3], 2, width)
    signal[..., 2:, :2] = torch.randn(*signal.shape[:3], height - 2, 2)
    values = signal.flatten(3)
    for start in range(0, (height - 2) * width, width):
        known, end = start + 2 * width + 2, start + 3 * width
        values[..., known:end] = values[..., start:known] @ matrices
    return signal[..., crop:, crop:].transpose(1, 2)


def row_matrices(processes: Float[Tensor, "k c 3 3"], width: int) -> Float[Tensor, "k c r v"]:
    """Return what gives a row of a signal, from its third value on, from the 2·width + 2 values before.

    A row is linear in these: the mixes of all its values are one triangular system of equations. The matrix
    is its solution, so that a signal takes one matrix product per row.
    """
    mixes = processes.new_zeros(*processes.shape[:2], 3, width - 2, width)
    for column in range(3):
        mixes.diagonal(column, -2, -1).copy_(processes[..., column, None])
    first, second, row = mixes.unbind(2)
    known = torch.cat([first, second, row[..., :2]], dim=-1)
    solution: Tensor = torch.linalg.solve_triangular(-row[..., 2:], known, upper=False, unitriangular=True)
    return solution


def draw_channels(
    kernels: Float[Tensor, "m 3 3"], height: int, width: int, crop: int
) -> Float[Tensor, "m h w"]:
    """Draw a one-channel signal of every kernel as `draw_signals` does, but value by value.

    This is faster for many kernels with one signal each.
    """
    height, width = height + crop, width + crop
    mix = kernels.permute(1, 2, 0).contiguous()
    signal = mix.new_empty(height, width, len(kernels))
    signal[:2] = torch.randn(2, width, len(kernels))
    signal[2:, :2] = torch.randn(height - 2, 2, len(kernels))
    for i in range(2, height):
        above = (signal[i - 2 + u, v : width - 2 + v] * mix[u, v] for u in range(2) for v in range(3))
        signal[i, 2:] = sum(above)
        for j in range(2, width):
            signal[i, j].addcmul_(mix[2, 0], signal[i, j - 2]).addcmul_(mix[2, 1], signal[i, j - 1])
    return signal[crop:, crop:].permute(2, 0, 1).contiguous()


def signal_norms(signals: Float[Tensor, "m c h w"]) -> Float[Tensor, "m 1 1 1"]:
    """Return every signal's L2 norm."""
    return signals.square().sum((1, 2, 3), keepdim=True).sqrt()
