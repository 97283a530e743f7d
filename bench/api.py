"""The vocabulary: values that flow through the benchmark and the protocols its parts satisfy.

    Poison a DATASET with an ATTACK, clean it with a DEFENSE, train a BACKBONE on it under a WEIGHTING,
    score every task.

Shapes, throughout: n images of a split, b of a batch, c channels, h height, w width, t tasks, k classes,
o outputs of one head, d features. Images are stored as uint8 and computed with as float32 in [0, 1];
a perturbation δ is in the same unit, so that the budget ε of 8/255 reads 0.0314.

A *part* is a frozen dataclass: its fields are its hyperparameters with the paper's defaults, and
``version`` is raised whenever its results change. State lives in what a part returns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from bench.values import (
    Augmentation,
    Batch,
    Kind,
    NoCheckpoint,
    Progress,
    Recipe,
    Shape,
    Split,
    ignore_progress,
)


@runtime_checkable
class Scorer(Protocol):
    """Metrics of one task, gathered batch by batch, so that no set of maps has to fit in memory."""

    def update(self, outputs: Float[Tensor, "b o ..."], target: Tensor) -> None:
        """Take in a network's outputs on some samples."""

    def compute(self) -> dict[str, float | None]:
        """Return every metric of the task over all that was taken in; None where it is undefined."""


@runtime_checkable
class Task(Protocol):
    """What a network is asked about an image: its head, its loss, its metrics and their floors."""

    @property
    def name(self) -> str:
        """The task's name, unique in its dataset."""

    @property
    def kind(self) -> Kind:
        """What it asks; of the kinds in `DENSE` a value for every pixel."""

    @property
    def outputs(self) -> int:
        """Outputs of the task's head, for a dense task at every pixel."""

    @property
    def classes(self) -> int:
        """Number of classes k that `classify` tells apart."""

    def loss(self, outputs: Float[Tensor, "b o ..."], target: Tensor) -> Float[Tensor, ""]:
        """Return the mean loss over the labeled samples or pixels (0 where there is none)."""

    def wrong(self, outputs: Float[Tensor, "b o ..."], target: Tensor) -> Float[Tensor, " b"]:
        """Return, per sample, the share of its labels that the outputs get wrong; 0 without labels."""

    def labeled(self, target: Tensor) -> Bool[Tensor, " b"]:
        """Return which samples have a label, for a dense task at some pixel at least."""

    def hidden(self, target: Tensor) -> Tensor:
        """Return a target of the same shape that is all missing."""

    def shifted(self, target: Tensor) -> Tensor:
        """Return what an attacker wants to be seen instead: for every label another one, missing as it is."""

    def classify(self, target: Tensor) -> Int64[Tensor, "b ..."]:
        """Return the classes, 0 to k - 1 (`MISSING` without a label), that class-wise noise goes by.

        For a dense task one for every pixel, [b h w].
        """

    def mirrored(self, target: Tensor) -> Tensor:
        """Return the target of the image flipped left-right, its pixels in the order they had."""

    def scorer(self) -> Scorer:
        """Return an empty scorer."""

    def describe(self, train: Tensor, test: Tensor) -> dict[str, object]:
        """Return what the leaderboard must know of the task, as in `bench.record.TaskInfo`."""


@dataclass(frozen=True, eq=False)
class MultiTaskData:
    """A loaded dataset.

    Attributes:
        tasks: what is asked of every image.
        train: the images that are published.
        test: the images victims are scored on.
        augmentation: what its labels allow.
        notes: what is to be known of what was read, a sentence each: files that were left out, say.
    """

    tasks: tuple[Task, ...]
    train: Split
    test: Split
    augmentation: Augmentation = field(default_factory=Augmentation)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Dataset(Protocol):
    """Where images and labels come from.

    Attributes:
        recipe: how networks are trained on it where a suite says nothing else, the paper's if it has one.
    """

    version: ClassVar[int]
    recipe: ClassVar[Recipe]

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of its tasks, known before it is loaded."""

    def missing(self, root: Path | None) -> str | None:
        """Return one sentence on what is not there and how to get it; None where all is there."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read the dataset under the data root; what is slow to decode is kept under ``cache``.

        Raises:
            BenchError: when something is missing or cannot be read.
        """


@runtime_checkable
class Noise(Protocol):
    """A crafted perturbation: a table of rows, one pattern per label, a generator, ..."""

    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return δ for these samples. The budget is enforced where δ is added, not here."""


@runtime_checkable
class Generative(Noise, Protocol):
    """Noise that also serves images it was not crafted on, and so is kept with its poison."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors from which the attack's ``restore(state, context)`` makes the noise again."""


@runtime_checkable
class Checkpoint(Protocol):
    """Where a long crafting notes how far it has come, to go on from there after a kill."""

    def load(self) -> dict[str, Any] | None:
        """Return the state noted last, None at the start."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Note a state, a tree of tensors and plain values; skipped where the last one is recent."""


@dataclass(frozen=True, eq=False)
class CraftContext:
    """What an attacker has besides the images.

    Attributes:
        tasks: the tasks of the training set.
        augmentation: what the attacker expects a victim to do to the images.
        epsilon: the budget ε in [0, 1] pixel units; 1 for an attack that has none.
        new_surrogate: builds an untrained multi-task network of the surrogate's architecture.
        surrogate_snapshots: ``surrogate_snapshots(n)`` returns the same network at n (or all there are, if
            fewer) equidistant points of its training on the clean data, the trained one last; only for an
            attack that sets ``needs_surrogate``.
        device: where to compute.
        progress: to be called once per step that takes noticeable time.
        checkpoint: where to note how far the crafting has come.
    """

    tasks: tuple[Task, ...]
    augmentation: Augmentation
    epsilon: float
    new_surrogate: Callable[[], nn.Module]
    surrogate_snapshots: Callable[[int], Sequence[nn.Module]]
    device: torch.device
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)


@runtime_checkable
class Attack(Protocol):
    """Whoever publishes the images, and changes them first.

    Attributes:
        needs_surrogate: a network trained on the clean data is needed, ``context.snapshots``.
        bounded: δ is held to the budget; else the attack is in a track of its own, without a budget.
        dense: it can also make noise for dense tasks; else suites leave it out on datasets that have them.
    """

    version: ClassVar[int]
    needs_surrogate: ClassVar[bool]
    bounded: ClassVar[bool]
    dense: ClassVar[bool]

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft the noise for this training set; all randomness comes from torch's global generator."""


@runtime_checkable
class RestoringAttack(Attack, Protocol):
    """An attack whose noise is `Generative`."""

    def restore(
        self, state: Mapping[str, Tensor], context: CraftContext, shape: tuple[int, int, int]
    ) -> Noise:
        """Make the noise again from its ``state()``, for images [c h w] of the shape it was crafted on."""


@runtime_checkable
class Backbone(Protocol):
    """The victim's (or surrogate's) network architecture.

    Attributes:
        dense: it gives a map of features, for dense tasks (`DenseBackbone`), else one vector.
    """

    version: ClassVar[int]
    dense: ClassVar[bool]

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return an encoder, freshly initialized, and the number d of its features.

        The encoder takes [b c h w] to [b d], or to a map [b d h' w'] if it is dense.

        Args:
            shape: of the images it is trained on; it may be shown others of as many channels.

        Raises:
            BenchError: when it cannot take images of this shape.
        """


@runtime_checkable
class DenseBackbone(Backbone, Protocol):
    """A backbone for dense tasks."""

    def decoder(self, features: int, outputs: int) -> nn.Module:
        """Return one task's decoder, [b d h' w'] to [b o h'' w'']; the network scales it to the image."""


@dataclass(frozen=True, eq=False)
class Step:
    """What a weighting has of one training step.

    Attributes:
        losses: the loss of every task, 0 where the batch has no label of it.
        labeled: which tasks have a label in the batch.
        features: what all heads read; the losses' gradients reach the shared parameters through it.
        shared: the parameters below the features, those of the last layer last.
        again: computes the losses of the batch again, with the parameters as they are by then, for whoever
            wants to know what the step has changed.
    """

    losses: Float[Tensor, " t"]
    labeled: Bool[Tensor, " t"]
    features: Float[Tensor, "b ..."]
    shared: Sequence[nn.Parameter]
    again: Callable[[], Float[Tensor, " t"]]


@runtime_checkable
class Balancer(Protocol):
    """One training run's state of a weighting."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return its own learnable parameters, which the network's optimizer trains along; most have none."""

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate into ``.grad`` of all parameters and return the weight each task was given."""

    def finish_step(self, step: Step) -> None:
        """Take note of a step that the optimizer has taken."""

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Take note of every task's mean loss over the epoch."""


@runtime_checkable
class Weighting(Protocol):
    """How the exploiter balances the tasks' losses."""

    version: ClassVar[int]

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a fresh balancer for one training run."""


@runtime_checkable
class Defense(Protocol):
    """What the exploiter does against poison, without knowing the attack's name.

    Attributes:
        dense: it can work with dense tasks; else suites leave it out on datasets that have them.
        learned: ``purify`` learns from the images, at a cost, and is done once for all victims of a poison.
        validation: share of the released images that is held out, to pick the epoch whose network is used:
            that of the best mean score on them. 0: the last epoch's.
        trusted: share of the training images of which the exploiter has the clean originals, and from which a
            network is trained first whose shared parameters stay as they are. 0: there are none.
    """

    version: ClassVar[int]
    dense: ClassVar[bool]
    learned: ClassVar[bool]

    @property
    def validation(self) -> float:
        """See the class."""

    @property
    def trusted(self) -> float:
        """See the class."""

    def purify(
        self,
        released: Split,
        tasks: Sequence[Task],
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> UInt8[Tensor, "n c h w"]:
        """Clean the released images, once, before training; return as many of the same shape."""

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Change a batch in every training step; the network is in training mode, and is left in it."""


@runtime_checkable
class Regime(Protocol):
    """How many networks the exploiter trains."""

    version: ClassVar[int]

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Split the tasks into groups; one network is trained for each."""
