"""An attack on trial: kinds of training sets, and the attack's crafting on each of them."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from bench.api import EPSILON, MISSING, Attack, Augmentation, Batch, CraftContext, Noise, Split, Task
from bench.augmentation import seen_shape
from bench.catalog import Choice, load, locate, make
from bench.dense import Depth, Normals, Segmentation
from bench.engine.bookmark import FileBookmark
from bench.engine.pipeline import equidistant, seeded
from bench.engine.poisoning import quantise
from bench.engine.scope import SCOPE
from bench.errors import BenchError
from bench.net import MultiTaskNet
from bench.tasks import Classification
from bench.training import take

CPU = torch.device("cpu")

CHECKPOINTS = 3
"""Checkpoints of the surrogate; they are untrained, and their weights differ."""


AUGMENTATION = Augmentation(crop=13, flip=True)


class BrokenError(Exception):
    """A breach of the contract: one sentence on what is wrong."""


class UncraftedError(Exception):
    """There is no poison to look at, since crafting failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


MAPS = (Segmentation("what", ("a", "b", "c", "d")), Depth("how far", 0.0, 1.0), Normals("turned where"))
"""The dense tasks of a training set that has some."""


@dataclass(frozen=True)
class Case:
    """A kind of training set.

    Attributes:
        channels: of the images.
        height: of the images.
        width: of the images.
        classes: number of classes of every task.
        missing: share of the labels that are missing, drawn at random.
        unlabelled: tasks that have no label at all, as if they were not to be protected.
        augmentation: what victims are expected to do.
        dense: beside these there are a segmentation, a depth and a normals task.
        count: number of images.
    """

    channels: int = 3
    height: int = 16
    width: int = 16
    classes: tuple[int, ...] = (2, 5, 4)
    missing: float = 0.0
    unlabelled: tuple[int, ...] = ()
    augmentation: Augmentation = AUGMENTATION
    dense: bool = False
    count: int = 40

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks."""
        labels = tuple(
            Classification(f"task {i}", tuple(f"class {c}" for c in range(classes)))
            for i, classes in enumerate(self.classes)
        )
        return (*labels, *MAPS) if self.dense else labels

    def split(self, more: int = 0, seed: int = 0) -> Split:
        """Return images of every brightness, black and white pixels among them, and random labels."""
        count = self.count + more
        draw = torch.Generator().manual_seed(seed)
        shape = (count, self.channels, self.height, self.width)
        images = torch.randint(-40, 296, shape, generator=draw).clamp(0, 255).to(torch.uint8)
        targets = {}
        for number, task in enumerate(self.tasks):
            target = _random_target(task, (count, self.height, self.width), draw)
            without = torch.rand(count, generator=draw) < (number in self.unlabelled or self.missing)
            targets[task.name] = torch.where(
                without.view(-1, *[1] * (target.ndim - 1)), task.hidden(target), target
            )
        return Split(images, targets)


def _random_target(task: Task, size: tuple[int, int, int], draw: torch.Generator) -> Tensor:
    """Return a label for each of [n h w] images, or a map as it is stored, a tenth of its pixels missing."""
    count, height, width = size
    if task.kind == "classification":
        return torch.randint(0, task.classes, (count,), generator=draw)
    without = torch.rand(count, 1, height, width, generator=draw) < 0.1
    if task.kind == "segmentation":
        labels = torch.randint(0, task.classes, size, generator=draw)
        return labels.masked_fill(without[:, 0], MISSING).to(torch.int8)
    values = torch.rand(count, task.outputs, height, width, generator=draw)
    if task.kind == "normals":
        values = functional.normalize(values - values.new_tensor([0.5, 0.5, 1.1])[:, None, None], dim=1)
    return values.masked_fill(without, float("nan"))


USUAL, GREY, HALF, ODD = "three tasks", "grey images", "half of the labels missing", "odd sides"
MAPPED = "dense tasks"

CASES: Mapping[str, Case] = {
    USUAL: Case(),
    GREY: Case(channels=1),
    "one binary task": Case(classes=(2,)),
    "one task of five classes": Case(classes=(5,)),
    "two tasks": Case(classes=(2, 4)),
    "11 binary tasks": Case(classes=(2,) * 11),
    "40 tasks of two and three classes": Case(classes=(2, 3) * 20),
    HALF: Case(missing=0.5),
    "no labels": Case(missing=1.0),
    "one task without labels": Case(unlabelled=(1,)),
    ODD: Case(height=17, width=15),
    "images that are not square": Case(height=12, width=20, augmentation=Augmentation(flip=True)),
    "no augmentation": Case(augmentation=Augmentation()),
    "41 images": Case(count=41),  # in batches of 20 or 10, one is left over
    MAPPED: Case(classes=(2, 5), dense=True, missing=0.1),
}
"""The kinds of training sets by name."""

LABELLED = tuple(name for name, case in CASES.items() if case.missing < 1)
"""Those with labels."""


class _Interruption(BaseException):
    """Breaks a crafting off; no error that an attack would think of catching."""


class Notes:
    """A bookmark that counts, and may break a crafting off.

    Attributes:
        saves: how often a state was offered.
    """

    def __init__(self, kept: dict[str, Any] | None = None, stop: int = 0, path: Path | None = None) -> None:
        """Start from a kept state; keep the ``stop``-th in a file, as the engine does, and break off."""
        self.saves = 0
        self._kept, self._stop, self._path = kept, stop, path

    def load(self) -> dict[str, Any] | None:
        """Return the state to start from."""
        return self._kept

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Count, and keep the state if it is the one."""
        self.saves += 1
        if self._path is not None and self.saves == self._stop:
            try:
                FileBookmark(self._path, {}, every_s=0.0).save(state)
            except TypeError as error:
                raise _Interruption from error
            raise _Interruption
        if self._kept is not None:
            state()  # to be asked for it must not change what follows


_SHARED: tuple[tuple[str, Callable[[], Any], Callable[[Any], object]], ...] = (
    ("torch's random state", torch.get_rng_state, torch.set_rng_state),
    ("whether torch computes gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    ("torch's default type", torch.get_default_dtype, torch.set_default_dtype),
    ("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    (
        "torch's deterministic mode",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    ("how NumPy treats errors", np.geterr, lambda treatment: np.seterr(**treatment)),
)
"""What all parts of a run share: a name, how to get it, how to set it."""


def put_back(before: Sequence[Any]) -> list[str]:
    """Give what is shared the values it had before; return the names of what was different."""
    different = []
    for (name, get, set_), value in zip(_SHARED, before, strict=True):
        now = get()
        if not (torch.equal(now, value) if isinstance(value, Tensor) else now == value):
            different.append(name)
            set_(value)
    return different


class Crafting:
    """One crafting: the attacker's means, and what came of it.

    Attributes:
        train: the training set, after the crafting.
        surrogates: the checkpoints, after the crafting; none where the attack needs none.
        weights: theirs from before.
        context: the attacker's means.
        steps: everything that was said of the progress.
        disturbed: what the crafting changed of what all parts of a run share; it was put back.
        noise: what the attack returned.
        change: the change of every pixel as it would be released, in steps of 1/255.
    """

    noise: Noise
    change: Tensor

    def __init__(self, attack: Attack, label: str, case: Case, bookmark: Notes, seed: int) -> None:
        self.train = case.split()
        self.steps: list[tuple[str, int, int]] = []
        backbone = make("backbone", "dense-small(width=4)" if case.dense else "small(width=4)")
        shape = seen_shape((case.channels, case.height, case.width), case.augmentation)

        def new_surrogate() -> MultiTaskNet:
            return MultiTaskNet(backbone, case.tasks, shape)

        with seeded("surrogate", 0):
            self.surrogates = [new_surrogate() for _ in range(CHECKPOINTS if _needs_surrogate(attack) else 0)]
        self.weights = [
            {key: value.clone() for key, value in net.state_dict().items()} for net in self.surrogates
        ]

        def checkpoints(count: int) -> Sequence[nn.Module]:
            if not self.surrogates:
                raise BrokenError("it asks for checkpoints, for which it must set needs_surrogate = True")
            return [self.surrogates[place - 1] for place in equidistant(CHECKPOINTS, count)]

        self.context = CraftContext(
            tasks=case.tasks,
            augmentation=case.augmentation,
            epsilon=1.0 if budget(attack) is None else EPSILON / 255,
            new_surrogate=new_surrogate,
            checkpoints=checkpoints,
            device=CPU,
            progress=lambda what, done, total: self.steps.append((what, done, total)),
            bookmark=bookmark,
        )
        before = [get() for _, get, _ in _SHARED]
        try:
            with seeded("craft", seed):
                self.noise = attack.craft(self.train, self.context)
                self.change, _ = quantise(self.noise, self.train, budget(attack), CPU, label)
        finally:
            self.disturbed = put_back(before)

    def batch(self, rows: Int64[Tensor, " b"] | None = None) -> Batch:
        """Return some rows of the training set, or all of it, as an attack sees them."""
        return take(self.train, torch.arange(len(self.train)) if rows is None else rows, CPU)


# An attack on trial may lack what the protocol asks of it.


def _needs_surrogate(attack: Attack) -> bool:
    return bool(getattr(attack, "needs_surrogate", False))


def budget(attack: Attack) -> int | None:
    """Return the budget in steps of 1/255; None in the unbounded track."""
    return EPSILON if getattr(attack, "bounded", True) else None


class Trial:
    """An attack on trial: it is crafted on a kind of training set once, however many checks look at it.

    Attributes:
        choice: the attack's name and parameters.
        kind: its class.
        attack: the attack.
    """

    def __init__(self, choice: Choice | str, defaults: Mapping[str, Any] | None = None) -> None:
        """Build the attack; ``defaults`` are overrides below those of the choice.

        Which images and tasks it is to protect is no business of the attack's, and left out.

        Raises:
            BenchError: for an unknown name or parameter, and for what is no dataclass.
        """
        choice = Choice.parse(choice) if isinstance(choice, str) else choice
        self.choice = Choice(choice.name, tuple(item for item in choice.params if item[0] not in SCOPE))
        self.kind = load("attack", self.choice.name)
        if not (isinstance(self.kind, type) and dataclasses.is_dataclass(self.kind)):
            where = locate("attack", self.choice.name)
            raise BenchError(
                f"attack {self.choice.name!r}: {where} is no dataclass, which every part must be"
            )
        self.attack: Attack = make("attack", self.choice, defaults)
        self._made: dict[str, tuple[Crafting | Exception, Notes]] = {}

    def crafting(self, case: str) -> Crafting:
        """Return the crafting on a kind of training set.

        Raises:
            UncraftedError: when it failed.
        """
        made, _ = self._once(case)
        if isinstance(made, Exception):
            raise UncraftedError(made)
        return made

    def saves(self, case: str) -> int:
        """Return how often the crafting offered its state to the bookmark."""
        return self._once(case)[1].saves

    def _once(self, case: str) -> tuple[Crafting | Exception, Notes]:
        if case not in self._made:
            notes = Notes()
            try:
                self._made[case] = self.again(case, notes), notes
            except Exception as error:  # whatever an attack raises is a finding
                self._made[case] = error, notes
        return self._made[case]

    def again(self, case: str, bookmark: Notes | None = None, seed: int = 0) -> Crafting:
        """Craft anew; all else is crafted with seed 0."""
        return Crafting(self.attack, self.choice.label, CASES[case], bookmark or Notes(), seed)

    def resumed(self, case: str, stop: int) -> Crafting:
        """Craft until the ``stop``-th state is kept, throw all else away, and go on from there.

        Raises:
            BrokenError: when there is no such state, or it cannot be read back.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bookmark.pt"
            try:
                self.again(case, Notes(stop=stop, path=path))
            except _Interruption as broken:
                if broken.__cause__ is not None:
                    raise BrokenError(str(broken.__cause__)) from broken
                kept = FileBookmark(path, {}).load()
            else:
                raise BrokenError(f"crafted again, it saves its state less than {stop} times")
        if kept is None:
            raise BrokenError("the state it saves cannot be read back")
        return self.again(case, Notes(kept))
