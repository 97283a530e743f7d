"""An attack on trial: kinds of training sets, and the attack's crafting on each of them."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from bench.api import Attack, CraftContext, Noise
from bench.catalog.build import build_part, load_part_class
from bench.catalog.choice import Choice
from bench.catalog.table import locate_part
from bench.conformance.cases import CASES, Case
from bench.conformance.quick import build_quick_part
from bench.engine.planning.partial_protection import PARTIAL_PARAMETERS
from bench.engine.stages.apply_poison import quantize_delta
from bench.engine.stages.checkpoint import FileCheckpoint
from bench.engine.stages.context import seeded
from bench.engine.stages.surrogate import equidistant_epochs
from bench.errors import BenchError
from bench.training.augmentation import cropped_shape
from bench.training.loaders import make_batch
from bench.training.net import MultiTaskNet
from bench.values import EPSILON, Batch

CPU = torch.device("cpu")

SNAPSHOTS = 3
"""Snapshots of the surrogate; they are untrained, and their weights differ."""


class ContractError(Exception):
    """A breach of the contract: one sentence on what is wrong."""


class CraftFailedError(Exception):
    """There is no poison to look at, since crafting failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Interruption(BaseException):
    """Breaks a crafting off; no error that an attack would think of catching."""


class RecordingCheckpoint:
    """A checkpoint that counts, and may break a crafting off.

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
                FileCheckpoint(self._path, {}, every_s=0.0).save(state)
            except TypeError as error:
                raise _Interruption from error
            raise _Interruption
        if self._kept is not None:
            state()  # to be asked for it must not change what follows


_PROCESS_STATE: tuple[tuple[str, Callable[[], Any], Callable[[Any], object]], ...] = (
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


def restore_process_state(before: Sequence[Any]) -> list[str]:
    """Give what is shared the values it had before; return the names of what was different."""
    different = []
    for (name, get, set_), value in zip(_PROCESS_STATE, before, strict=True):
        now = get()
        if not (torch.equal(now, value) if isinstance(value, Tensor) else now == value):
            different.append(name)
            set_(value)
    return different


class CraftRun:
    """One crafting: the attacker's means, and what came of it.

    Attributes:
        train: the training set, after the crafting.
        surrogates: the snapshots, after the crafting; none where the attack needs none.
        weights: theirs from before.
        context: the attacker's means.
        steps: everything that was said of the progress.
        disturbed: what the crafting changed of what all parts of a run share; it was put back.
        noise: what the attack returned.
        change: the change of every pixel as it would be released, in steps of 1/255.
    """

    noise: Noise
    change: Tensor

    def __init__(
        self, attack: Attack, label: str, case: Case, checkpoint: RecordingCheckpoint, seed: int
    ) -> None:
        self.train = case.split()
        self.steps: list[tuple[str, int, int]] = []
        backbone = build_part("backbone", "dense-small(width=4)" if case.dense else "small(width=4)")
        shape = cropped_shape((case.channels, case.height, case.width), case.augmentation)

        def new_surrogate() -> MultiTaskNet:
            return MultiTaskNet(backbone, case.tasks, shape)

        with seeded("surrogate", 0):
            self.surrogates = [new_surrogate() for _ in range(SNAPSHOTS if _needs_surrogate(attack) else 0)]
        self.weights = [
            {key: value.clone() for key, value in net.state_dict().items()} for net in self.surrogates
        ]

        def snapshots(count: int) -> Sequence[nn.Module]:
            if not self.surrogates:
                raise ContractError("it asks for snapshots, for which it must set needs_surrogate = True")
            return [self.surrogates[place - 1] for place in equidistant_epochs(SNAPSHOTS, count)]

        self.context = CraftContext(
            tasks=case.tasks,
            augmentation=case.augmentation,
            epsilon=1.0 if attack_budget(attack) is None else EPSILON / 255,
            new_surrogate=new_surrogate,
            surrogate_snapshots=snapshots,
            device=CPU,
            progress=lambda what, done, total: self.steps.append((what, done, total)),
            checkpoint=checkpoint,
        )
        before = [get() for _, get, _ in _PROCESS_STATE]
        try:
            with seeded("craft", seed):
                self.noise = attack.craft(self.train, self.context)
                self.change, _ = quantize_delta(self.noise, self.train, attack_budget(attack), CPU, label)
        finally:
            self.disturbed = restore_process_state(before)

    def batch(self, rows: Int64[Tensor, " b"] | None = None) -> Batch:
        """Return some rows of the training set, or all of it, as an attack sees them."""
        return make_batch(self.train, torch.arange(len(self.train)) if rows is None else rows, CPU)


def _needs_surrogate(attack: Attack) -> bool:
    return bool(getattr(attack, "needs_surrogate", False))


def attack_budget(attack: Attack) -> int | None:
    """Return the budget in steps of 1/255; None in the unbounded track."""
    return EPSILON if getattr(attack, "bounded", True) else None


class AttackUnderTest:
    """An attack on trial: it is crafted on a kind of training set once, however many checks look at it.

    Attributes:
        choice: the attack's name and parameters.
        kind: its class.
        attack: the attack.
    """

    def __init__(self, choice: Choice | str) -> None:
        """Build the attack with its quick parameters, unless the choice has others.

        Which images and tasks it is to protect is no business of the attack's, and left out.

        Raises:
            BenchError: for an unknown name or parameter, and for what is no dataclass.
        """
        choice = Choice.parse(choice) if isinstance(choice, str) else choice
        self.choice = Choice(
            choice.name, tuple(item for item in choice.params if item[0] not in PARTIAL_PARAMETERS)
        )
        self.kind = load_part_class("attack", self.choice.name)
        if not (isinstance(self.kind, type) and dataclasses.is_dataclass(self.kind)):
            where = locate_part("attack", self.choice.name)
            raise BenchError(
                f"attack {self.choice.name!r}: {where} is no dataclass, which every part must be"
            )
        self.attack: Attack = build_quick_part("attack", self.choice)
        self._made: dict[str, tuple[CraftRun | Exception, RecordingCheckpoint]] = {}

    def crafting(self, case: str) -> CraftRun:
        """Return the crafting on a kind of training set.

        Raises:
            UncraftedError: when it failed.
        """
        made, _ = self._once(case)
        if isinstance(made, Exception):
            raise CraftFailedError(made)
        return made

    def saves(self, case: str) -> int:
        """Return how often the crafting offered its state to the checkpoint."""
        return self._once(case)[1].saves

    def _once(self, case: str) -> tuple[CraftRun | Exception, RecordingCheckpoint]:
        if case not in self._made:
            notes = RecordingCheckpoint()
            try:
                self._made[case] = self.again(case, notes), notes
            except Exception as error:  # whatever an attack raises is a finding
                self._made[case] = error, notes
        return self._made[case]

    def again(self, case: str, checkpoint: RecordingCheckpoint | None = None, seed: int = 0) -> CraftRun:
        """Craft anew; all else is crafted with seed 0."""
        return CraftRun(
            self.attack, self.choice.label, CASES[case], checkpoint or RecordingCheckpoint(), seed
        )

    def resumed(self, case: str, stop: int) -> CraftRun:
        """Craft until the ``stop``-th state is kept, throw all else away, and go on from there.

        Raises:
            BrokenError: when there is no such state, or it cannot be read back.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.pt"
            try:
                self.again(case, RecordingCheckpoint(stop=stop, path=path))
            except _Interruption as broken:
                if broken.__cause__ is not None:
                    raise ContractError(str(broken.__cause__)) from broken
                kept = FileCheckpoint(path, {}).load()
            else:
                raise ContractError(f"crafted again, it saves its state less than {stop} times")
        if kept is None:
            raise ContractError("the state it saves cannot be read back")
        return self.again(case, RecordingCheckpoint(kept))
