"""The contract of an attack as checks, each of which says in a sentence what is wrong where."""

import dataclasses
import inspect
import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bench.api import Generative, Noise, RestoringAttack
from bench.catalog.build import part_settings
from bench.catalog.description import describe_part
from bench.conformance.cases import (
    CASES,
    DENSE_CASE,
    GRAY_CASE,
    HALF_MISSING_CASE,
    LABELED_CASES,
    ODD_SIZE_CASE,
    PLAIN_CASE,
)
from bench.conformance.craft_run import CPU, AttackUnderTest, ContractError, CraftFailedError, attack_budget
from bench.engine.planning.partial_protection import PARTIAL_PARAMETERS
from bench.engine.stages.apply_poison import apply_poison, quantize_delta
from bench.engine.stages.context import seeded
from bench.errors import BenchError
from bench.record import CLEAN
from bench.values import Batch, Targets

TOLERANCE = 1e-5
"""Largest difference, in [0, 1] pixel units, of two δ that count as the same."""


def is_a_frozen_dataclass(trial: AttackUnderTest, _: str) -> None:
    """Check what the catalog, the suites and the keys rely on."""
    kind, fields = trial.kind, {field.name: field for field in dataclasses.fields(trial.kind)}
    if not kind.__dataclass_params__.frozen:
        raise ContractError("it is not frozen; write @dataclass(frozen=True)")
    for name, wanted in (
        ("version", int),
        ("needs_surrogate", bool),
        ("bounded", bool),
        ("dense", bool),
    ):
        if name in fields or type(getattr(kind, name, None)) is not wanted:
            raise ContractError(f"it has no class variable {name}: ClassVar[{wanted.__name__}]")
    if kind.version < 1:
        raise ContractError(f"its version is {kind.version}; the first one is 1")
    for name, field in fields.items():
        if name in PARTIAL_PARAMETERS:
            raise ContractError(f"its parameter {name!r} has the name of one that every attack takes")
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ContractError(f"its parameter {name!r} has no default")
    try:
        json.dumps(part_settings(trial.choice, trial.attack), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(f"its parameters cannot be written into a poison's key: {error}") from error


def is_documented(trial: AttackUnderTest, _: str) -> None:
    """Check the docstring, as `bench list` and `bench show` read it from the source."""
    found = describe_part("attack", trial.choice.name)
    if not found.summary:
        raise ContractError("it has no docstring")
    if not found.source and "Not from a paper" not in found.docstring:
        raise ContractError("its docstring has no line 'Source: ...', and does not say 'Not from a paper'")
    described = "".join((kind.__doc__ or "").partition("Attributes:")[2] for kind in trial.kind.__mro__)
    for field in dataclasses.fields(trial.kind):
        if not re.search(rf"^\s*{field.name}: ", described, re.MULTILINE):
            raise ContractError(f"its parameter {field.name!r} is not described under 'Attributes:'")


def is_crafted(trial: AttackUnderTest, case: str) -> None:
    """Check that there is δ, of the images' shape and finite everywhere."""
    try:
        trial.crafting(case)
    except CraftFailedError as uncrafted:
        raise uncrafted.error from None


def keeps_the_budget(trial: AttackUnderTest, case: str) -> None:
    """Check the images as they would be released."""
    made, limit, clean = trial.crafting(case), attack_budget(trial.attack), CASES[case].split().images
    released = apply_poison(clean, made.change, limit, trial.choice.label)
    moved = released.int() - clean.int()
    if not torch.equal(moved, made.change.int()):
        raise ContractError("the released images are not the clean ones plus the poison")
    if limit is not None and moved.abs().max() > limit:
        raise ContractError(f"a pixel is changed by {int(moved.abs().max())}/255; the budget is {limit}/255")


def changes_something(trial: AttackUnderTest, case: str) -> str | None:
    """Check that there is a poison, and that ``clean`` has none."""
    changed = bool(trial.crafting(case).change.any())
    if trial.choice.name == CLEAN:
        if changed:
            raise ContractError("it changes images, and is the reference without any change")
        return "it is the reference without any change"
    if not changed:
        raise ContractError("it changes no pixel of any image")
    return None


def is_the_same_again(trial: AttackUnderTest, case: str) -> None:
    """Check that all randomness is from the seeded generators."""
    change, other = trial.crafting(case).change, trial.again(case).change
    if not torch.equal(change, other):
        share = float((change != other).float().mean())
        raise ContractError(f"crafted again with the same seed, {share:.1%} of all values are others")


def leaves_its_inputs_alone(trial: AttackUnderTest, case: str) -> None:
    """Check images, labels and surrogates for writing."""
    made, fresh = trial.crafting(case), CASES[case].split()
    if not torch.equal(made.train.images, fresh.images):
        raise ContractError("it writes to the training images")
    _compare_targets(made.train.targets, fresh.targets, "it writes to the training set's labels")
    for net, weights in zip(made.surrogates, made.weights, strict=True):
        for key, value in net.state_dict().items():
            if not torch.equal(value, weights[key]):
                raise ContractError(f"it changes {key!r} of a snapshot it was given")


def leaves_the_process_alone(trial: AttackUnderTest, case: str) -> None:
    """Check what all parts of a run share."""
    disturbed = trial.crafting(case).disturbed
    if disturbed:
        raise ContractError(f"it changes, for all that runs after it, {' and '.join(disturbed)}")


def leaves_the_batch_alone(trial: AttackUnderTest, case: str) -> None:
    """Check the batch that δ is asked for."""
    made = trial.crafting(case)
    batch, fresh = made.batch(), made.batch()
    _delta(made.noise, batch)
    if not torch.equal(batch.images, fresh.images):
        raise ContractError("delta() writes to the images of its batch")
    if not torch.equal(batch.index, fresh.index):
        raise ContractError("delta() writes to the index of its batch")
    _compare_targets(batch.targets, fresh.targets, "delta() writes to the targets of its batch")


def asks_no_other_image(trial: AttackUnderTest, case: str) -> None:
    """Check δ of the same images in other batches, in another order."""
    made = trial.crafting(case)
    together = _delta(made.noise, made.batch())
    if not _close(_delta(made.noise, made.batch()), together):
        raise ContractError("asked for the same batch twice, delta() returns two things")
    for rows in torch.randperm(len(made.train), generator=torch.Generator().manual_seed(1)).split(7):
        few = _delta(made.noise, made.batch(rows.clone()))  # one that writes to it fails elsewhere
        if not _close(few, together[rows]):
            most = 255 * float((few - together[rows]).abs().max())
            raise ContractError(f"δ of an image differs by up to {most:.2g}/255 with the rest of its batch")


def needs_no_gradient(trial: AttackUnderTest, case: str) -> None:
    """Check that no graph hangs on δ."""
    made = trial.crafting(case)
    if made.noise.delta(made.batch()).requires_grad:
        raise ContractError("δ requires a gradient; write @torch.no_grad() above delta()")


def tells_progress_in_order(trial: AttackUnderTest, case: str) -> None:
    """Check all that was said of the progress."""
    last: dict[str, tuple[int, int]] = {}
    for what, done, total in trial.crafting(case).steps:
        earlier, of = last.get(what, (0, total))
        if not 0 <= earlier <= done <= total == of:
            raise ContractError(f"its progress goes from {what} {earlier}/{of} to {what} {done}/{total}")
        last[what] = (done, total)


def goes_on_after_a_kill(trial: AttackUnderTest, case: str) -> str | None:
    """Check that a crafting gone on from its first, middle and last checkpoint ends like an unbroken one."""
    change, saves = trial.crafting(case).change, trial.saves(case)
    if not saves:
        return "it uses no checkpoint, so that a crafting which is killed starts anew"
    for stop in sorted({1, (saves + 1) // 2, saves}):
        if not torch.equal(trial.resumed(case, stop).change, change):
            raise ContractError(f"broken off at checkpoint {stop} of {saves}, it goes on to another poison")
    return None


def serves_unseen_images(trial: AttackUnderTest, case: str) -> str | None:
    """Check that noise which is kept with its poison comes back the same and serves other images."""
    made = trial.crafting(case)
    if not isinstance(made.noise, Generative):
        return "its noise has no state(), so that it serves only the images it was crafted on"
    if not callable(getattr(trial.attack, "restore", None)):
        raise ContractError("its noise has state(), but the attack has no restore(state, context, shape)")
    kept = load_tensors(save_tensors({name: t.contiguous() for name, t in made.noise.state().items()}))
    _, channels, height, width = made.train.images.shape
    with seeded("restore", 1):
        attack = cast("RestoringAttack", trial.attack)
        restored = attack.restore(kept, made.context, (channels, height, width))
    if not _close(_delta(restored, made.batch()), _delta(made.noise, made.batch())):
        raise ContractError("restored from its state(), the noise is another")
    unseen = CASES[case].split(more=12, seed=1)
    try:
        quantize_delta(restored, unseen, attack_budget(trial.attack), CPU, trial.choice.label)
    except Exception as error:  # whatever it raises is a finding
        raise ContractError(f"for images it was not crafted on: {describe_error(error, trial)}") from error
    return None


@torch.no_grad()
def _delta(noise: Noise, batch: Batch) -> Float[Tensor, "b c h w"]:
    return noise.delta(batch)


def _close(delta: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> bool:
    return delta.shape == other.shape and torch.allclose(delta, other, rtol=0, atol=TOLERANCE)


def _compare_targets(targets: Targets, fresh: Targets, sentence: str) -> None:
    same = targets.keys() == fresh.keys()
    if not same or any(not _equal(targets[name], labels) for name, labels in fresh.items()):
        raise ContractError(sentence)


def _equal(target: Tensor, fresh: Tensor) -> bool:
    return target.shape == fresh.shape and torch.allclose(target, fresh, rtol=0, atol=0, equal_nan=True)


@dataclass(frozen=True)
class Check:
    """A clause of the contract, and the kinds of training sets it is held to; none where it needs none."""

    name: str
    run: Callable[[AttackUnderTest, str], str | None]
    cases: tuple[str, ...] = tuple(CASES)


CHECKS = (
    Check("is a frozen dataclass", is_a_frozen_dataclass, ()),
    Check("says what it is and where it is from", is_documented, ()),
    Check("can be crafted", is_crafted),
    Check("keeps the budget", keeps_the_budget),
    Check("changes something", changes_something, LABELED_CASES),
    Check(
        "is the same again with the same seed",
        is_the_same_again,
        (PLAIN_CASE, GRAY_CASE, HALF_MISSING_CASE, DENSE_CASE),
    ),
    Check("leaves its inputs alone", leaves_its_inputs_alone),
    Check("leaves the process alone", leaves_the_process_alone),
    Check("leaves the batch alone", leaves_the_batch_alone),
    Check("asks no other image of the batch", asks_no_other_image),
    Check("needs no gradient", needs_no_gradient),
    Check("tells its progress in order", tells_progress_in_order),
    Check("goes on after a kill", goes_on_after_a_kill, (PLAIN_CASE, DENSE_CASE)),
    Check(
        "serves images it has not seen",
        serves_unseen_images,
        (PLAIN_CASE, GRAY_CASE, ODD_SIZE_CASE, DENSE_CASE),
    ),
)
"""The contract, in the order in which it is checked."""

TOTAL = sum(len(check.cases) or 1 for check in CHECKS)
"""Number of verdicts on an attack."""


def describe_error(error: Exception, trial: AttackUnderTest) -> str:
    """Return what an error says; of one that nobody meant, its type too, and where the attack raised it."""
    message = " ".join(str(error).split())
    if isinstance(error, ContractError | BenchError):
        return message
    frames, own = traceback.extract_tb(error.__traceback__), inspect.getfile(trial.kind)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{type(error).__name__}: {message} ({Path(frame.filename).name}, line {frame.lineno})"
