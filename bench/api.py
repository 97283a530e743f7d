"""The protocols that parts satisfy.

    Poison a DATASET with an ATTACK, clean it with a DEFENSE, train a BACKBONE on it under a WEIGHTING,
    score every task.

A *part* is a frozen dataclass: its fields are its hyperparameters with the paper's defaults, and
``version`` is raised whenever its results change. State lives in what a part returns.

Three more class variables are optional: ``quick_params``, parameters that make its checks and tests fast; of
an attack ``deterministic``, if every seed gives the same poison, and ``resumable``, if it saves checkpoints;
of a weighting ``needs_shared_features``, if it compares the tasks' gradients of the features.
So is an attack's method ``parameter_warning()``: one sentence if its parameters cannot work well, else None.

The module of a part imports all it needs from here: the values that parts pass to each other are explained in
`bench.values`, tasks in `bench.tasks.protocol`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from bench.tasks.protocol import DENSE, MISSING, Kind, Scorer, Task
from bench.values import (
    Augmentation,
    Batch,
    Checkpoint,
    CraftContext,
    MultiTaskData,
    Norm,
    Precision,
    Progress,
    Recipe,
    Shape,
    Split,
    Step,
    Targets,
    ignore_progress,
)

# fmt: off
__all__ = [
    "DENSE", "MISSING", "Attack", "Augmentation", "Backbone", "Balancer", "Batch", "BuildingRegime",
    "Checkpoint", "CraftContext", "Dataset", "Defense", "DenseBackbone", "Generative", "Kind",
    "MultiTaskData", "Noise", "Norm", "Precision", "PretrainingRegime", "Progress", "Recipe", "Regime",
    "RestoringAttack", "Scorer", "Shape", "Split", "Step", "Targets", "Task", "Weighting",
    "ignore_progress",
]
# fmt: on


@runtime_checkable
class Dataset(Protocol):
    """Where images and labels come from.

    Attributes:
        recipe: how networks are trained on it unless a suite says otherwise; the paper's if it has one.

    A field ``data_seed: int``, if it has one, is the seed of its random split or selection of images, which a
    suite may set to the seed of every cell.
    """

    version: ClassVar[int]
    recipe: ClassVar[Recipe]

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of its tasks, known before it is loaded."""

    def missing(self, root: Path | None) -> str | None:
        """Return one sentence on what is missing and how to get it; None if nothing is."""

    def load(self, root: Path | None, cache: Path, progress: Progress = ignore_progress) -> MultiTaskData:
        """Read the dataset under the data root; images that are slow to decode are kept under ``cache``.

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
    """Noise that can also be made for images it was not crafted on, and so is kept with its poison."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors from which the attack's ``restore`` makes the noise again."""


@runtime_checkable
class Attack(Protocol):
    """How images are changed before they are published.

    Attributes:
        needs_surrogate: it needs a network trained on the clean data, ``context.surrogate_snapshots``.
        norm: what its budget limits, ``linf`` (every value of δ) or ``l2`` (the norm of δ); None without a
            budget. The engine enforces it. Each norm is a track of its own with its own ranking.
        dense: it can make noise for dense tasks; suites skip other attacks on datasets that have some.
    """

    version: ClassVar[int]
    needs_surrogate: ClassVar[bool]
    norm: ClassVar[Norm | None]
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
        dense: its features are a map, for dense tasks (`DenseBackbone`), else one vector.
    """

    version: ClassVar[int]
    dense: ClassVar[bool]

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return a newly initialized encoder and the number d of its features.

        The encoder maps [b c h w] to [b d], or to [b d h' w'] if it is dense.

        Args:
            shape: of the training images; other images may have another height and width.

        Raises:
            BenchError: when it cannot take images of this shape.
        """


@runtime_checkable
class DenseBackbone(Backbone, Protocol):
    """A backbone for dense tasks."""

    def decoder(self, features: int, outputs: int) -> nn.Module:
        """Return one task's decoder, [b d h' w'] to [b o h'' w'']; its output is scaled to the image."""


@runtime_checkable
class Balancer(Protocol):
    """A weighting's state during one training run."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return its own learnable parameters, trained by the network's optimizer; most have none."""

    def backward(self, step: Step) -> Float[Tensor, " t"]:
        """Back-propagate into ``.grad`` of all parameters and return every task's weight.

        The weights are NaN if the rule has no answer for the step; the record counts such steps.
        """

    def finish_step(self, step: Step) -> None:
        """Called after the optimizer has taken the step."""

    def finish_epoch(self, losses: Float[Tensor, " t"]) -> None:
        """Called after every epoch with every task's mean loss over its labeled samples, 0 if it has none."""


@runtime_checkable
class Weighting(Protocol):
    """How the exploiter balances the tasks' losses."""

    version: ClassVar[int]

    def start(self, tasks: Sequence[Task], device: torch.device) -> Balancer:
        """Return a new balancer for one training run."""


@runtime_checkable
class Defense(Protocol):
    """What the exploiter does against poison, without knowing the attack's name.

    Attributes:
        dense: it can work with dense tasks; suites skip other defenses on datasets that have some.
        learned: ``purify`` learns from the images, at a cost, and runs once for all victims of a poison.
        validation: share of the released images that is held out to choose the epoch whose network is used,
            the one with the best mean score on them. 0: the last epoch's network is used.
        trusted: share of the training images of which the exploiter has the clean originals. A network is
            trained on these first, and its shared parameters are frozen. 0: there are none.
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
        """Clean the released images once, before training; return as many of the same shape."""

    def augment(self, batch: Batch, net: nn.Module, tasks: Sequence[Task]) -> Batch:
        """Change a batch in every training step; the network is in training mode and must stay in it."""


@runtime_checkable
class Regime(Protocol):
    """Which networks the exploiter trains, and on what.

    A regime with this method alone trains the network of all surrogates, `bench.training.net.MultiTaskNet`.
    """

    version: ClassVar[int]

    def groups(self, tasks: tuple[Task, ...]) -> tuple[tuple[Task, ...], ...]:
        """Split the tasks into groups; one network is trained for each."""


@runtime_checkable
class BuildingRegime(Regime, Protocol):
    """A regime with a network of its own."""

    def explain_misfit(self, backbone: Backbone, weighting: Weighting, kinds: frozenset[Kind]) -> str | None:
        """Return why it does not fit these parts and kinds of tasks, None if it does.

        The words follow the regime's name: "needs a backbone that ...".
        """

    def build(
        self, backbone: Backbone, tasks: Sequence[Task], shape: Shape, pieces: int, precision: Precision
    ) -> nn.Module:
        """Return the network of a group, a subclass of `bench.training.net.MultiTaskNet`.

        Args:
            backbone: of its encoders.
            tasks: those of the group.
            shape: of the images.
            pieces: into how many pieces it splits a batch, to save memory.
            precision: what it multiplies in.
        """


@runtime_checkable
class PretrainingRegime(Regime, Protocol):
    """A regime that learns the shared parameters without labels; then they are frozen, and heads trained."""

    def pretraining_epochs(self, recipe: Recipe) -> int:
        """Return how many passes over the images it takes, if the heads are trained by this recipe."""

    def pretrain(
        self,
        net: nn.Module,
        images: UInt8[Tensor, "n c h w"],
        recipe: Recipe,
        augmentation: Augmentation,
        device: torch.device,
    ) -> Iterator[object]:
        """Train what is shared in a new `bench.training.net.MultiTaskNet`, yielding after every pass.

        Args:
            net: on the device; trained in place.
            images: the released ones; the clean originals if the defense has some.
            recipe: how the heads are trained.
            augmentation: the crops and flips that the dataset allows.
            device: where to compute.
        """
