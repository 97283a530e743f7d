"""The checks of a defense."""

import torch
from torch import Tensor

from bench.catalog.build import build_part
from bench.conformance.cases import (
    CASES,
    DENSE_CASE,
    GRAY_CASE,
    HALF_MISSING_CASE,
    ODD_SIZE_CASE,
    PLAIN_CASE,
    Case,
    skip_dense_case,
)
from bench.conformance.part import CPU, Check, ContractError, PartUnderTest
from bench.engine.stages.context import seeded
from bench.training.loaders import make_batch
from bench.training.net import MultiTaskNet
from bench.values import Batch, Targets

IMAGES = 8
"""Number of images that a batch has."""

LABEL_CASES = (PLAIN_CASE, GRAY_CASE, HALF_MISSING_CASE, ODD_SIZE_CASE)


class DefenseUnderTest(PartUnderTest):
    """A defense, which may not be for dense tasks."""

    def reason_to_skip(self, case: str) -> str | None:
        """Return why no check applies to a case of dense tasks; None if they do."""
        return skip_dense_case(self.part, case)


def purifies_images(tested: DefenseUnderTest, case: str) -> None:
    """Check the images that `purify` returns, and that it writes to none of its inputs."""
    released, fresh = CASES[case].split(), CASES[case].split()
    with seeded("purify", 0):
        purified = tested.part.purify(released, CASES[case].tasks, CPU)
    if (purified.shape, purified.dtype) != (fresh.images.shape, torch.uint8):
        raise ContractError(
            f"purify() returns {purified.dtype} of shape {tuple(purified.shape)} for images of uint8 "
            f"{tuple(fresh.images.shape)}"
        )
    if not torch.equal(released.images, fresh.images):
        raise ContractError("purify() writes to the released images")
    if not _are_equal(released.targets, fresh.targets):
        raise ContractError("purify() writes to the labels")
    with seeded("purify", 0):
        again = tested.part.purify(released, CASES[case].tasks, CPU)
    if not torch.equal(again, purified):
        raise ContractError("with the same seed, purify() returns different images")


def augments_images(tested: DefenseUnderTest, case: str) -> None:
    """Check the batch that `augment` returns, and that it writes to none of its inputs."""
    batch, augmented = augment_batch(tested, CASES[case])
    images = augmented.images
    if (images.shape, images.dtype) != (batch.images.shape, batch.images.dtype):
        raise ContractError(f"augment() returns images of {images.dtype} and shape {tuple(images.shape)}")
    if images.requires_grad:
        raise ContractError("augment() returns images that require a gradient")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ContractError("augment() returns images outside of [0, 1]")
    if not torch.equal(augmented.index, batch.index):
        raise ContractError("augment() changes the index of the batch")
    if not 0 <= augmented.share <= 1:
        raise ContractError(f"augment() returns a share of {augmented.share}")
    for targets in (augmented.targets, augmented.mixed or augmented.targets):
        if targets.keys() != batch.targets.keys():
            raise ContractError("augment() returns targets of other tasks")
        for name, target in batch.targets.items():
            _check_mixed_target(targets[name], target)
    if not _are_equal(_labels_of(augmented.targets), _labels_of(batch.targets)):
        raise ContractError("augment() changes labels; those of a second image belong in the batch's `mixed`")


def _check_mixed_target(mixed: Tensor, target: Tensor) -> None:
    """Check that every label is one of the batch, of a map one at the same pixel."""
    if (mixed.shape, mixed.dtype) != (target.shape, target.dtype):
        raise ContractError("augment() returns mixed targets of another shape or type than the batch's")
    known, labels = target.nan_to_num(-99), mixed.nan_to_num(-99)
    if target.ndim == 1:
        if not torch.equal(labels.sort().values, known.sort().values):
            raise ContractError("the mixed targets of augment() are not those of the batch in another order")
    elif not (labels[:, None] == known[None]).any(1).all():
        raise ContractError("augment() moves the labels of pixels")


def augment_batch(tested: DefenseUnderTest, case: Case) -> tuple[Batch, Batch]:
    """Return a batch and the augmented one; all that may not be written to is checked."""
    torch.manual_seed(0)
    backbone = build_part("backbone", "dense-small(width=2)" if case.dense else "small(width=2)")
    net = MultiTaskNet(backbone, case.tasks, (case.channels, case.height, case.width)).train()
    batch = make_batch(case.split(), torch.arange(IMAGES), CPU)
    fresh = make_batch(case.split(), torch.arange(IMAGES), CPU)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    with seeded("augment", 0):
        augmented = tested.part.augment(batch, net, case.tasks)
    if not (torch.equal(batch.images, fresh.images) and _are_equal(batch.targets, fresh.targets)):
        raise ContractError("augment() writes to the batch")
    if not all(torch.equal(value, weights[name]) for name, value in net.state_dict().items()):
        raise ContractError("augment() changes the network's weights or buffers")
    if not net.training:
        raise ContractError("augment() leaves the network in evaluation mode")
    if any(parameter.grad is not None for parameter in net.parameters()):
        raise ContractError("augment() leaves gradients in the network")
    with seeded("augment", 0):
        again = tested.part.augment(batch, net, case.tasks)
    if not torch.equal(again.images, augmented.images) or again.share != augmented.share:
        raise ContractError("with the same seed, augment() returns a different batch")
    return batch, augmented


def _labels_of(targets: Targets) -> Targets:
    return {name: target for name, target in targets.items() if target.ndim == 1}


def _are_equal(targets: Targets, fresh: Targets) -> bool:
    return targets.keys() == fresh.keys() and all(
        torch.equal(targets[name].double().nan_to_num(-99), target.double().nan_to_num(-99))
        for name, target in fresh.items()
    )


DEFENSE_CHECKS = (
    Check("purifies images and keeps their shape", purifies_images, (*LABEL_CASES, DENSE_CASE)),
    Check("augments images and keeps their labels", augments_images, (*LABEL_CASES, DENSE_CASE)),
)
"""The contract of a defense."""
