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
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

EPSILON = 8
"""The field's budget: the largest change of a pixel, in steps of 1/255."""

MISSING = -1
"""The label of a sample that has none for a task; losses and metrics leave it out."""

Targets = Mapping[str, Tensor]
"""Task name → one target per image, int64 [n] for classification."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


@runtime_checkable
class Task(Protocol):
    """What a network is asked about an image: its head, its loss, its metrics and their floors."""

    @property
    def name(self) -> str:
        """The task's name, unique in its dataset."""

    @property
    def outputs(self) -> int:
        """Outputs of the task's head."""

    def loss(self, outputs: Float[Tensor, "b o"], target: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return the mean loss over the labelled samples (0 where there is none)."""

    def predict(self, outputs: Float[Tensor, "b o"]) -> Int64[Tensor, " b"]:
        """Return the most likely class."""

    def metrics(self, outputs: Float[Tensor, "n o"], target: Int64[Tensor, " n"]) -> dict[str, float | None]:
        """Return every metric of the task; None where it is undefined."""

    def describe(self, train: Int64[Tensor, " n"], test: Int64[Tensor, " m"]) -> dict[str, object]:
        """Return what the leaderboard must know of the task, as in `bench.record.TaskInfo`."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with one target per task.

    Attributes:
        images: uint8 [n c h w]; may be memory-mapped, so never written to.
        targets: task name → int64 [n], `MISSING` where there is no label.
    """

    images: UInt8[Tensor, "n c h w"]
    targets: Targets

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples of a split, on the device: images in [0, 1], their targets and their rows."""

    images: Float[Tensor, "b c h w"]
    targets: Targets
    index: Int64[Tensor, " b"]


@dataclass(frozen=True)
class Augmentation:
    """Random crop to ``crop`` pixels a side (None: whole image) and random flip, drawn per image.

    At test time the crop is the central one and nothing is flipped.
    """

    crop: int | None = None
    flip: bool = False


@dataclass(frozen=True, eq=False)
class MultiTaskData:
    """A loaded dataset: its tasks, a train and a test split, and the augmentation its labels allow."""

    tasks: tuple[Task, ...]
    train: Split
    test: Split
    augmentation: Augmentation = Augmentation()


@runtime_checkable
class Dataset(Protocol):
    """Where images and labels come from."""

    version: ClassVar[int]

    def missing(self, root: Path | None) -> str | None:
        """Return one sentence on what is not there and how to get it; None where all is there."""

    def load(self, root: Path | None, cache: Path) -> MultiTaskData:
        """Read the dataset under the data root; decoded images may be kept under ``cache``.

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
class Bookmark(Protocol):
    """Where a long crafting notes how far it has come, to go on from there after a kill."""

    def load(self) -> dict[str, Any] | None:
        """Return the state noted last, None at the start."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Note a state, a tree of tensors and plain values; skipped where the last one is recent."""


class NoBookmark:
    """Notes nothing."""

    def load(self) -> None:
        """Return None."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class CraftContext:
    """What an attacker has besides the images.

    Attributes:
        tasks: the tasks of the training set.
        augmentation: what the attacker expects a victim to do to the images.
        epsilon: the budget ε in [0, 1] pixel units; 1 for an attack that has none.
        new_surrogate: builds an untrained multi-task network of the surrogate's architecture.
        checkpoints: ``checkpoints(n)`` returns the same network at n (or all there are, if fewer)
            equidistant points of its training on the clean data, the trained one last; only for an attack
            that sets ``needs_surrogate``.
        device: where to compute.
        progress: to be called once per step that takes noticeable time.
        bookmark: where to note how far the crafting has come.
    """

    tasks: tuple[Task, ...]
    augmentation: Augmentation
    epsilon: float
    new_surrogate: Callable[[], nn.Module]
    checkpoints: Callable[[int], Sequence[nn.Module]]
    device: torch.device
    progress: Progress
    bookmark: Bookmark = field(default_factory=NoBookmark)


@runtime_checkable
class Attack(Protocol):
    """Whoever publishes the images, and changes them first.

    Attributes:
        needs_surrogate: a network trained on the clean data is needed, ``context.checkpoints``.
        bounded: δ is held to the budget; else the attack is in a track of its own, without a budget.
    """

    version: ClassVar[int]
    needs_surrogate: ClassVar[bool]
    bounded: ClassVar[bool]

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
    """The victim's (or surrogate's) network architecture."""

    version: ClassVar[int]

    def build(self, channels: int) -> tuple[nn.Module, int]:
        """Return an encoder [b c h w] → [b d], freshly initialised, and d."""


@runtime_checkable
class Balancer(Protocol):
    """One training run's state of a weighting."""

    def backward(self, losses: Float[Tensor, " t"], shared: Sequence[nn.Parameter]) -> Float[Tensor, " t"]:
        """Back-propagate the losses into ``.grad`` and return the weight each task was given."""


@runtime_checkable
class Weighting(Protocol):
    """How the exploiter balances the tasks' losses."""

    version: ClassVar[int]

    def start(self, tasks: Sequence[Task]) -> Balancer:
        """Return a fresh balancer for one training run."""


@runtime_checkable
class Defense(Protocol):
    """What the exploiter does against poison, without knowing the attack's name."""

    version: ClassVar[int]

    def purify(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Clean the released images, once, before training."""

    def augment(self, batch: Batch, net: nn.Module) -> Batch:
        """Change a batch in every training step."""


@runtime_checkable
class Regime(Protocol):
    """How many networks the exploiter trains."""

    version: ClassVar[int]

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Split the tasks into groups; one network is trained for each."""
