"""An attack under test, and its crafting on the kinds of training sets."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from bench.api import Attack, CraftContext, Noise, Norm
from bench.catalog.build import build_part
from bench.catalog.choice import Choice
from bench.conformance.cases import CASES, Case, skip_dense_case
from bench.conformance.part import CPU, ContractError, NoResultError, PartUnderTest
from bench.engine.planning.partial_protection import COMMON_PARAMETERS
from bench.engine.stages.budget import quantize_delta
from bench.engine.stages.checkpoint import FileCheckpoint
from bench.engine.stages.context import seeded
from bench.engine.stages.surrogate import equidistant_epochs
from bench.training.augmentation import cropped_shape
from bench.training.loaders import make_batch
from bench.training.net import MultiTaskNet
from bench.values import DEFAULT_EPSILON, Batch, Budget, default_budget

SNAPSHOTS = 3
"""Number of snapshots of the surrogate; they are untrained, and their weights differ."""


class CraftFailedError(NoResultError):
    """There is no poison to check, since crafting failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Interruption(BaseException):
    """Stops a crafting; not an Exception, since an attack may catch those."""


class RecordingCheckpoint:
    """A checkpoint that counts how often it is saved, and may stop the crafting.

    Attributes:
        saves: how often a state was offered.
    """

    def __init__(
        self, state: dict[str, Any] | None = None, stop_at: int = 0, path: Path | None = None
    ) -> None:
        """Resume from a state, or write state number ``stop_at`` to a file, as the engine does, and stop."""
        self.saves = 0
        self._state, self._stop_at, self._path = state, stop_at, path

    def load(self) -> dict[str, Any] | None:
        """Return the state to resume from."""
        return self._state

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Count the state, and write it if it is the one to stop at."""
        self.saves += 1
        if self._path is not None and self.saves == self._stop_at:
            try:
                FileCheckpoint(self._path, {}, every_s=0.0).save(state)
            except TypeError as error:
                raise _Interruption from error
            raise _Interruption
        if self._state is not None:
            state()  # asking for the state must not change the poison


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
"""The settings that all code of a process shares: a name, how to get it, how to set it."""


def restore_process_state(before: Sequence[Any]) -> list[str]:
    """Set the shared settings to earlier values; return the names of those that differed."""
    changed = []
    for (name, get, set_), value in zip(_PROCESS_STATE, before, strict=True):
        now = get()
        if not (torch.equal(now, value) if isinstance(value, Tensor) else now == value):
            changed.append(name)
            set_(value)
    return changed


class CraftRun:
    """One crafting: what the attacker was given, and the result.

    Attributes:
        train: the training set, after the crafting.
        surrogates: the snapshots, after the crafting; empty if the attack needs none.
        weights: their weights before it.
        context: the attacker's context.
        steps: every report of the progress.
        disturbed: the shared settings of the process that the crafting changed; they were restored.
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
            return [self.surrogates[epoch - 1] for epoch in equidistant_epochs(SNAPSHOTS, count)]

        self.context = CraftContext(
            tasks=case.tasks,
            augmentation=case.augmentation,
            epsilon=1.0 if (budget := attack_budget(attack)) is None else budget.pixel_epsilon,
            new_surrogate=new_surrogate,
            surrogate_snapshots=snapshots,
            device=CPU,
            progress=lambda what, done, total: self.steps.append((what, done, total)),
            checkpoint=checkpoint,
            norm=attack_norm(attack),
        )
        before = [get() for _, get, _ in _PROCESS_STATE]
        try:
            with seeded("craft", seed):
                self.noise = attack.craft(self.train, self.context)
                self.change, _ = quantize_delta(self.noise, self.train, budget, CPU, label)
        finally:
            self.disturbed = restore_process_state(before)

    def batch(self, rows: Int64[Tensor, " b"] | None = None) -> Batch:
        """Return some rows of the training set, or all of it, as a batch."""
        return make_batch(self.train, torch.arange(len(self.train)) if rows is None else rows, CPU)


def _needs_surrogate(attack: Attack) -> bool:
    return bool(getattr(attack, "needs_surrogate", False))


def attack_norm(attack: Attack) -> Norm | None:
    """Return what its budget limits; that it says so is a check of its own."""
    norm: Norm | None = getattr(attack, "norm", "linf")
    return norm if norm in (None, *DEFAULT_EPSILON) else "linf"


def attack_budget(attack: Attack) -> Budget | None:
    """Return the budget that it is crafted and checked with; None in the unbounded track."""
    return default_budget(attack_norm(attack))


class AttackUnderTest(PartUnderTest):
    """An attack that is crafted on every kind of training set once, for all the checks."""

    def __init__(self, choice: Choice | str) -> None:
        """Build the attack, without the parameters that every attack takes, which the engine sees to.

        Raises:
            BenchError: for an unknown name or parameter, and if the attack is not a dataclass.
        """
        choice = Choice.parse(choice) if isinstance(choice, str) else choice
        params = tuple(item for item in choice.params if item[0] not in COMMON_PARAMETERS)
        super().__init__("attack", dataclasses.replace(choice, params=params))
        self._runs: dict[str, tuple[CraftRun | Exception, RecordingCheckpoint]] = {}

    def reason_to_skip(self, case: str) -> str | None:
        """Return why no check applies to a case of dense tasks; None if they do."""
        return skip_dense_case(self.part, case)

    def craft_once(self, case: str) -> CraftRun:
        """Return the crafting with seed 0, which is made at the first call.

        Raises:
            CraftFailedError: when it failed.
        """
        run, _ = self._run_once(case)
        if isinstance(run, Exception):
            raise CraftFailedError(run)
        return run

    def count_saves(self, case: str) -> int:
        """Return how often that crafting offered its state to the checkpoint."""
        return self._run_once(case)[1].saves

    def _run_once(self, case: str) -> tuple[CraftRun | Exception, RecordingCheckpoint]:
        if case not in self._runs:
            checkpoint = RecordingCheckpoint()
            try:
                self._runs[case] = self.craft(case, checkpoint), checkpoint
            except Exception as error:  # any error is a failure of the attack
                self._runs[case] = error, checkpoint
        return self._runs[case]

    def craft(self, case: str, checkpoint: RecordingCheckpoint | None = None, seed: int = 0) -> CraftRun:
        """Craft the poison again."""
        return CraftRun(self.part, self.choice.label, CASES[case], checkpoint or RecordingCheckpoint(), seed)

    def craft_with_a_kill(self, case: str, stop_at: int) -> CraftRun:
        """Stop a crafting at its checkpoint number ``stop_at``, and resume from what was written.

        Raises:
            ContractError: when there is no such checkpoint, or it cannot be read back.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.pt"
            try:
                self.craft(case, RecordingCheckpoint(stop_at=stop_at, path=path))
            except _Interruption as stopped:
                if stopped.__cause__ is not None:
                    raise ContractError(str(stopped.__cause__)) from stopped
                state = FileCheckpoint(path, {}).load()
            else:
                raise ContractError(f"crafted again, it saves its state fewer than {stop_at} times")
        if state is None:
            raise ContractError("the state it saves cannot be read back")
        return self.craft(case, RecordingCheckpoint(state))
