"""The checks of an attack."""

from typing import cast

import torch
from jaxtyping import Float
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bench.api import Generative, Noise, RestoringAttack
from bench.conformance.cases import (
    ALL_CASES,
    CASES,
    DENSE_CASE,
    GRAY_CASE,
    HALF_MISSING_CASE,
    LABELED_CASES,
    ODD_SIZE_CASE,
    PLAIN_CASE,
)
from bench.conformance.craft_run import AttackUnderTest, CraftFailedError, attack_budget
from bench.conformance.part import CPU, Check, ContractError
from bench.engine.stages.budget import apply_poison, quantize_delta
from bench.engine.stages.context import seeded
from bench.record import CLEAN
from bench.values import L2_VALUES, Batch, Targets

TOLERANCE = 1e-5
"""Largest difference, in [0, 1] pixel units, of two δ that count as the same."""


def is_crafted(tested: AttackUnderTest, case: str) -> None:
    """Check that there is δ, of the images' shape and finite everywhere."""
    try:
        tested.craft_once(case)
    except CraftFailedError as failure:
        raise failure.error from None


def keeps_the_budget(tested: AttackUnderTest, case: str) -> None:
    """Check the images as they would be released."""
    run, budget, clean = tested.craft_once(case), attack_budget(tested.part), CASES[case].split().images
    released = apply_poison(clean, run.change, budget, tested.choice.label)
    moved = released.int() - clean.int()
    if not torch.equal(moved, run.change.int()):
        raise ContractError("the released images are not the clean ones plus the poison")
    if budget is None:
        return
    largest, longest = int(moved.abs().max()), int(moved.square().sum((1, 2, 3)).max())
    if budget.norm == "linf" and largest > budget.epsilon:
        raise ContractError(f"a pixel is changed by {largest}/255; the budget is {budget}")
    if budget.norm == "l2" and longest > (255 * budget.epsilon) ** 2 * moved[0].numel() / L2_VALUES:
        raise ContractError(f"an image is changed by √{longest}/255; the budget is {budget}")


def changes_something(tested: AttackUnderTest, case: str) -> str | None:
    """Check that there is a poison, and that ``clean`` has none."""
    changed = bool(tested.craft_once(case).change.any())
    if tested.choice.name == CLEAN:
        if changed:
            raise ContractError("it changes images, but is the reference without any change")
        return "it is the reference without any change"
    if not changed:
        raise ContractError("it changes no pixel of any image")
    return None


def is_the_same_again(tested: AttackUnderTest, case: str) -> None:
    """Check that all randomness is from the seeded generators."""
    change, other = tested.craft_once(case).change, tested.craft(case).change
    if not torch.equal(change, other):
        share = float((change != other).float().mean())
        raise ContractError(f"crafted again with the same seed, {share:.1%} of all values differ")


def differs_with_another_seed(tested: AttackUnderTest, case: str) -> str | None:
    """Check whether randomness has a part in it, against its class variable ``deterministic``."""
    change, other = tested.craft_once(case).change, tested.craft(case, seed=1).change
    same = torch.equal(change, other)
    if getattr(tested.kind, "deterministic", False):
        if not same:
            raise ContractError("with another seed the poison differs, although it says deterministic = True")
        return "it is deterministic"
    if not change.any():
        return "it changes no pixel"
    if same:
        raise ContractError(
            "with another seed the poison is the same; an attack that draws nothing at random says so "
            "with deterministic: ClassVar[bool] = True"
        )
    return None


def leaves_its_inputs_alone(tested: AttackUnderTest, case: str) -> None:
    """Check that images, labels and surrogates are not written to."""
    run, fresh = tested.craft_once(case), CASES[case].split()
    if not torch.equal(run.train.images, fresh.images):
        raise ContractError("it writes to the training images")
    _require_equal_targets(run.train.targets, fresh.targets, "it writes to the training set's labels")
    for net, weights in zip(run.surrogates, run.weights, strict=True):
        for key, value in net.state_dict().items():
            if not torch.equal(value, weights[key]):
                raise ContractError(f"it changes {key!r} of a snapshot it was given")


def leaves_the_process_alone(tested: AttackUnderTest, case: str) -> None:
    """Check the settings that all code of a process shares."""
    disturbed = tested.craft_once(case).disturbed
    if disturbed:
        raise ContractError(f"it changes, for all code that runs after it, {' and '.join(disturbed)}")


def leaves_the_batch_alone(tested: AttackUnderTest, case: str) -> None:
    """Check that `delta` does not write to its batch."""
    run = tested.craft_once(case)
    batch, fresh = run.batch(), run.batch()
    _delta_of(run.noise, batch)
    if not torch.equal(batch.images, fresh.images):
        raise ContractError("delta() writes to the images of its batch")
    if not torch.equal(batch.index, fresh.index):
        raise ContractError("delta() writes to the index of its batch")
    _require_equal_targets(batch.targets, fresh.targets, "delta() writes to the targets of its batch")


def ignores_other_images(tested: AttackUnderTest, case: str) -> None:
    """Check δ of the same images in other batches and in another order."""
    run = tested.craft_once(case)
    together = _delta_of(run.noise, run.batch())
    if not _is_close(_delta_of(run.noise, run.batch()), together):
        raise ContractError("called twice with the same batch, delta() returns two different δ")
    for rows in torch.randperm(len(run.train), generator=torch.Generator().manual_seed(1)).split(7):
        few = _delta_of(
            run.noise, run.batch(rows.clone())
        )  # a copy: an attack that writes to it fails another check
        if not _is_close(few, together[rows]):
            largest = 255 * float((few - together[rows]).abs().max())
            raise ContractError(
                f"δ of an image differs by up to {largest:.2g}/255 with the rest of its batch"
            )


def needs_no_gradient(tested: AttackUnderTest, case: str) -> None:
    """Check that δ has no graph."""
    run = tested.craft_once(case)
    if run.noise.delta(run.batch()).requires_grad:
        raise ContractError("δ requires a gradient; write @torch.no_grad() above delta()")


def reports_progress_in_order(tested: AttackUnderTest, case: str) -> None:
    """Check every report of the progress."""
    last: dict[str, tuple[int, int]] = {}
    for what, done, total in tested.craft_once(case).steps:
        before, total_before = last.get(what, (0, total))
        if not 0 <= before <= done <= total == total_before:
            raise ContractError(
                f"its progress goes from {what} {before}/{total_before} to {what} {done}/{total}"
            )
        last[what] = (done, total)


def resumes_after_a_kill(tested: AttackUnderTest, case: str) -> str | None:
    """Resume from the first, middle and last checkpoint; compare with an uninterrupted crafting."""
    change, saves = tested.craft_once(case).change, tested.count_saves(case)
    if not saves and getattr(tested.kind, "resumable", False):
        raise ContractError("it says resumable = True, but saves no checkpoint")
    if not saves:
        return "it uses no checkpoint, so that a killed crafting starts again from the beginning"
    for stop in sorted({1, (saves + 1) // 2, saves}):
        if not torch.equal(tested.craft_with_a_kill(case, stop).change, change):
            raise ContractError(
                f"resumed from checkpoint {stop} of {saves}, the attack produced a different poison"
            )
    return None


def serves_unseen_images(tested: AttackUnderTest, case: str) -> str | None:
    """Check that generative noise, restored from its state, is the same and serves other images."""
    run = tested.craft_once(case)
    if not isinstance(run.noise, Generative):
        return "its noise has no state(), so that it serves only the images it was crafted on"
    if not callable(getattr(tested.part, "restore", None)):
        raise ContractError("its noise has state(), but the attack has no restore(state, context, shape)")
    state = load_tensors(save_tensors({name: t.contiguous() for name, t in run.noise.state().items()}))
    _, channels, height, width = run.train.images.shape
    with seeded("restore", 1):
        attack = cast("RestoringAttack", tested.part)
        restored = attack.restore(state, run.context, (channels, height, width))
    if not _is_close(_delta_of(restored, run.batch()), _delta_of(run.noise, run.batch())):
        raise ContractError("restored from its state(), the noise differs")
    unseen = CASES[case].split(more=12, seed=1)
    try:
        quantize_delta(restored, unseen, attack_budget(tested.part), CPU, tested.choice.label)
    except Exception as error:  # any error is a failure of the attack
        raise ContractError(f"for images it was not crafted on: {tested.describe_error(error)}") from error
    return None


@torch.no_grad()
def _delta_of(noise: Noise, batch: Batch) -> Float[Tensor, "b c h w"]:
    return noise.delta(batch)


def _is_close(delta: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> bool:
    return delta.shape == other.shape and torch.allclose(delta, other, rtol=0, atol=TOLERANCE)


def _require_equal_targets(targets: Targets, fresh: Targets, sentence: str) -> None:
    same = targets.keys() == fresh.keys()
    if not same or any(not _equal_targets(targets[name], labels) for name, labels in fresh.items()):
        raise ContractError(sentence)


def _equal_targets(target: Tensor, fresh: Tensor) -> bool:
    return target.shape == fresh.shape and torch.allclose(target, fresh, rtol=0, atol=0, equal_nan=True)


ATTACK_CHECKS = (
    Check("can be crafted", is_crafted, ALL_CASES),
    Check("keeps the budget", keeps_the_budget, ALL_CASES),
    Check("changes something", changes_something, LABELED_CASES),
    Check(
        "is the same again with the same seed",
        is_the_same_again,
        (PLAIN_CASE, GRAY_CASE, HALF_MISSING_CASE, DENSE_CASE),
    ),
    Check("differs with another seed", differs_with_another_seed, (PLAIN_CASE,)),
    Check("leaves its inputs alone", leaves_its_inputs_alone, ALL_CASES),
    Check("leaves the process alone", leaves_the_process_alone, ALL_CASES),
    Check("leaves the batch alone", leaves_the_batch_alone, ALL_CASES),
    Check("ignores the other images of the batch", ignores_other_images, ALL_CASES),
    Check("needs no gradient", needs_no_gradient, ALL_CASES),
    Check("reports its progress in order", reports_progress_in_order, ALL_CASES),
    Check("resumes after a kill", resumes_after_a_kill, (PLAIN_CASE, DENSE_CASE)),
    Check(
        "serves unseen images",
        serves_unseen_images,
        (PLAIN_CASE, GRAY_CASE, ODD_SIZE_CASE, DENSE_CASE),
    ),
)
"""The contract of an attack, in the order in which it is checked."""
