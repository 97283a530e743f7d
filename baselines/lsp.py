"""LSP: linearly separable perturbations."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int64
from torch import Tensor

from baselines.crafting.lift import ImageCell, Lift, Signal, assign_cells, lift_samplewise
from baselines.crafting.noise_table import Rows
from bench.api import CraftContext, Norm
from bench.errors import BenchError
from bench.tasks.classification import Classification, require_classification
from bench.values import MISSING, Split


@dataclass(frozen=True)
class LSP:
    """Linearly separable perturbations: every class is a Gaussian cluster of coarse color patches.

    Source: Yu et al., KDD 2022, arXiv:2111.00898, section 4

    Departs from the paper: the budget clamps each value, which the paper leaves free below its L2 norm (as
    `LSPL2` does); a task's noise is drawn at its cell's size instead of the image's, with smaller patches if
    too few fit to tell the classes apart.

    Attributes:
        patches: patches per side of a task's cell; four are the paper's 8-pixel patches on 32 pixels.
        strength: root mean square of an image's noise in a cell, in 1/255 at the default budget of 8/255, or
            of norm 1.0, and in proportion to the budget.
        separation: distance of a cluster's center from zero, per feature, in standard deviations.
        lift: how the noises of several tasks share an image.
    """

    patches: Annotated[int, Ge(1)] = 4
    strength: Annotated[float, Gt(0)] = 6.0
    separation: Annotated[float, Gt(0)] = 10.0
    lift: Lift = "patch"
    needs_surrogate: ClassVar[bool] = False
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def craft(self, train: Split, context: CraftContext) -> Rows:
        """Draw a sample of its label's cluster for every image and task."""
        layout = assign_cells(require_classification(context.tasks, "attack 'lsp'"), self.lift, train)
        signals = [
            self._signal_of_cell(task, cell, train, context)
            for task, cell in zip(layout.tasks, layout.cells, strict=True)
        ]
        return lift_samplewise(train, layout, signals, context)

    def _signal_of_cell(
        self, task: Classification, cell: ImageCell, train: Split, context: CraftContext
    ) -> Signal:
        channels, (height, width) = train.images.shape[1], cell.signal_size
        size = patch_size(task, channels, height, width, self.patches)
        grid = (channels, math.ceil(height / size[0]), math.ceil(width / size[1]))
        samples = draw_clusters(train.targets[task.name], task.classes, math.prod(grid), self.separation)
        strength = context.scale_strength(self.strength)

        def signal(rows: Int64[Tensor, " m"], labels: Int64[Tensor, " m"]) -> Tensor:
            patches = samples[rows].to(context.device).view(-1, *grid)
            enlarged = patches[:, :, :, None, :, None].expand(-1, -1, -1, size[0], -1, size[1])
            cropped = enlarged.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
            mean_square = cropped.square().mean((1, 2, 3), keepdim=True)
            return cropped * strength / mean_square.sqrt()

        return signal


@dataclass(frozen=True)
class LSPL2(LSP):
    """Linearly separable perturbations with a budget for the norm of an image's δ, not for single values.

    Source: Yu et al., KDD 2022, arXiv:2111.00898, section 4

    Departs from the paper: its norm of 6/255·√d, on d values, is 1.30 times the budget of norm 1.0 per
    3·32·32 values, so the δ that is released is scaled down by that; the tasks share an image as in `LSP`.
    """

    norm: ClassVar[Norm | None] = "l2"


def patch_size(task: Classification, channels: int, height: int, width: int, patches: int) -> tuple[int, int]:
    """Return height and width of the largest patches that can tell the classes apart.

    There are at least ``patches`` of them per side. Every class needs its own corner of the hypercube of
    features, so 2^features must be at least k.

    Raises:
        BenchError: when even patches of one pixel are too few.
    """
    for finer in range(patches, max(patches, height, width) + 1):
        size = math.ceil(height / finer), math.ceil(width / finer)
        features = channels * math.ceil(height / size[0]) * math.ceil(width / size[1])
        if features >= math.log2(task.classes):
            return size
    raise BenchError(
        f"attack 'lsp': the cell of task {task.name!r}, {height}×{width} pixels of {channels} channel(s), is "
        f'too small for {task.classes} classes; set lift = "average"'
    )


def draw_clusters(
    labels: Int64[Tensor, " n"], classes: int, features: int, separation: float
) -> Float[Tensor, "n f"]:
    """Draw for every label a sample of its class's Gaussian cluster; zeros for a missing label.

    The clusters are at corners of a hypercube, and each is stretched by a random linear map.
    """
    from sklearn.datasets import make_classification

    labeled = torch.nonzero(labels != MISSING)[:, 0]
    counts = labels[labeled].bincount(minlength=classes)
    samples, drawn_labels = make_classification(
        n_samples=len(labeled),
        n_features=features,
        n_informative=features,
        n_redundant=0,
        n_repeated=0,
        n_classes=classes,
        n_clusters_per_class=1,
        # The library rounds shares down to counts; half a sample more gives exactly these counts.
        weights=((counts.double() + 0.5) / len(labeled)).tolist(),
        flip_y=0.0,
        class_sep=separation,
        random_state=int(torch.randint(2**31, ())),
    )
    # Both are sorted by label, so that the i-th image of a class gets the i-th sample of its cluster.
    images, drawn = labels[labeled].argsort(stable=True), np.argsort(drawn_labels, kind="stable")
    features_of_images = torch.zeros(len(labels), features)
    features_of_images[labeled[images]] = torch.from_numpy(samples[drawn]).float()
    return features_of_images
