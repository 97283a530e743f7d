"""What a network is asked about an image: the protocols of tasks, and the words for their labels."""

from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

MISSING = -1
"""The label of a sample that has none for a task; losses and metrics leave it out."""

Kind = Literal["classification", "segmentation", "depth", "normals"]
"""What a task asks of an image."""

DENSE: frozenset[Kind] = frozenset({"segmentation", "depth", "normals"})
"""Kinds of tasks that ask for a value at every pixel."""


@runtime_checkable
class Scorer(Protocol):
    """Metrics of one task, computed batch by batch, so that not all maps have to fit in memory."""

    def update(self, outputs: Float[Tensor, "b o ..."], target: Tensor) -> None:
        """Add a network's outputs on some samples."""

    def compute(self) -> dict[str, float | None]:
        """Return every metric of the task over all samples added; None if a metric is undefined."""


@runtime_checkable
class Task(Protocol):
    """A question about an image: its head, its loss, its metrics and their floors."""

    @property
    def name(self) -> str:
        """The task's name, unique in its dataset."""

    @property
    def kind(self) -> Kind:
        """What it asks for; the kinds in `DENSE` ask for a value at every pixel."""

    @property
    def outputs(self) -> int:
        """Outputs of the task's head, for a dense task at every pixel."""

    @property
    def classes(self) -> int:
        """Number of classes k of `class_labels`."""

    def loss(self, outputs: Float[Tensor, "b o ..."], target: Tensor) -> Float[Tensor, ""]:
        """Return the mean loss over the labeled samples or pixels (0 if there are none)."""

    def share_wrong(self, outputs: Float[Tensor, "b o ..."], target: Tensor) -> Float[Tensor, " b"]:
        """Return, per sample, the share of its labels that the outputs get wrong; 0 without labels."""

    def labeled(self, target: Tensor) -> Bool[Tensor, " b"]:
        """Return which samples have a label; a dense task's have one at one pixel or more."""

    def without_labels(self, target: Tensor) -> Tensor:
        """Return a target of the same shape in which every label is missing."""

    def shifted(self, target: Tensor) -> Tensor:
        """Return the labels an attacker aims at: another one for every label; missing ones stay missing."""

    def class_labels(self, target: Tensor) -> Int64[Tensor, "b ..."]:
        """Return the classes, 0 to k - 1 (`MISSING` without a label), that class-wise noise depends on.

        A dense task has one for every pixel, [b h w].
        """

    def mirrored(self, target: Tensor) -> Tensor:
        """Return the target of the image flipped left-right, its pixels in their old order."""

    def scorer(self) -> Scorer:
        """Return an empty scorer."""

    def describe(self, train: Tensor, test: Tensor) -> dict[str, object]:
        """Return what the leaderboard must know about the task, as in `bench.record.TaskInfo`."""
