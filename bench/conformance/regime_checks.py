"""The checks of a regime."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.api import BuildingRegime, PretrainingRegime, Task
from bench.catalog.build import build_part
from bench.conformance.backbone_checks import LABELS, MAPS
from bench.conformance.part import CPU, Check, ContractError, PartUnderTest
from bench.conformance.weighting_checks import COUNTS, TASKS
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, Recipe

SHAPE = (3, 16, 16)

NETWORK_TASKS: dict[str, tuple[str, tuple[Task, ...]]] = {
    "labels": ("small(width=2)", TASKS),
    "one task": ("small(width=2)", TASKS[:1]),
    "labels on maps": ("dense-small(width=2)", LABELS),
    "labels and maps": ("dense-small(width=2)", (*LABELS, *MAPS)),
}
"""Case → the backbone and the tasks of a network."""


METHODS_TOGETHER = (("build", "explain_misfit"), ("pretrain", "pretraining_epochs"))
"""The methods of `BuildingRegime` and of `PretrainingRegime`; with one of two a regime is neither."""


def has_methods_together(tested: PartUnderTest, _: str) -> None:
    """Check that no method is there which would never be called."""
    for methods in METHODS_TOGETHER:
        there = [method for method in methods if hasattr(tested.part, method)]
        if len(there) == 1:
            (missing,) = set(methods) - set(there)
            raise ContractError(f"it has {there[0]}(), but not {missing}(), see bench/api.py")


def trains_every_task_once(tested: PartUnderTest, case: str) -> None:
    """Check that every task is in one group, and no group is empty."""
    tasks = TASKS[: COUNTS[case]]
    groups = tested.part.groups(tasks)
    if not all(groups):
        raise ContractError("groups() returns a group without a task")
    if sorted(task.name for group in groups for task in group) != sorted(task.name for task in tasks):
        raise ContractError("groups() does not put every task into one group")


def trains_every_parameter_of_its_network(tested: PartUnderTest, case: str) -> str | None:
    """Check the outputs, and that a loss on all of them reaches every parameter."""
    if misfit := _explain_misfit(tested, case):
        return misfit
    net, group = _build_network(tested, case)
    outputs = net(_draw_images())
    for task, output in zip(group, outputs, strict=True):
        wanted = (4, task.outputs, *(SHAPE[1:] if task.kind != "classification" else ()))
        if output.shape != wanted:
            raise ContractError(f"its network returns outputs {tuple(output.shape)}, not {wanted}")
    _sum_squares(outputs).backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            raise ContractError(f"the parameter {name} of its network is not trained: it gets no gradient")
    return None


def reaches_shared_parameters_through_features(tested: PartUnderTest, case: str) -> str | None:
    """Check that what weightings change, the gradient of the features, is all that shared parameters get."""
    if misfit := _explain_misfit(tested, case):
        return misfit
    net, _ = _build_network(tested, case)
    images = _draw_images()
    features = net.encode(images)
    shared = net.shared_parameters()
    if any(each is None for each in _gradients(features.square().sum(), shared)):
        raise ContractError("a shared parameter of its network changes nothing in the features")
    cut = features.detach().requires_grad_()
    outputs = net.apply_heads(cut, images)
    if any(each is not None for each in _gradients(_sum_squares(outputs), shared)):
        raise ContractError("its heads read shared parameters past the features")
    for number, output in enumerate(outputs):
        if not any(each.any() for each in _gradients(output.sum(), [cut]) if each is not None):
            raise ContractError(f"the output of task {number} does not depend on the features")
    return None


def splits_batches_into_pieces(tested: PartUnderTest, case: str) -> str | None:
    """Check that in evaluation mode a batch in pieces has the outputs of the whole batch."""
    if misfit := _explain_misfit(tested, case):
        return misfit
    with torch.no_grad():
        whole, halves = (_build_network(tested, case, pieces)[0].eval()(_draw_images()) for pieces in (1, 2))
    for one, other in zip(whole, halves, strict=True):
        if not torch.allclose(one, other, atol=1e-5):
            raise ContractError("its network returns other outputs if batches are split into pieces")
    return None


def learns_without_labels(tested: PartUnderTest, _: str) -> str | None:
    """Check that pretraining is repeatable and changes all shared parameters, and those alone."""
    if not isinstance(tested.part, PretrainingRegime):
        return "it does not pretrain"
    images = torch.randint(0, 256, (9, *SHAPE), dtype=torch.uint8)
    recipe = Recipe(epochs=1, batch=4)

    def train() -> MultiTaskNet:
        net, _ = _build_network(tested, "labels")
        passes = sum(1 for _ in tested.part.pretrain(net, images, recipe, Augmentation(flip=True), CPU))
        if passes != tested.part.pretraining_epochs(recipe):
            raise ContractError("pretrain() takes other passes than pretraining_epochs() says")
        return net

    new, first, second = _build_network(tested, "labels")[0], train(), train()
    shared = {id(parameter) for parameter in first.shared_parameters()}
    for (name, one), other, start in zip(
        first.named_parameters(), second.parameters(), new.parameters(), strict=True
    ):
        if not torch.equal(one, other):
            raise ContractError(f"pretrained again with the same seed, its {name} is not the same")
        if torch.equal(one, start) == (id(one) in shared):
            raise ContractError(f"pretraining {'leaves' if id(one) in shared else 'changes'} {name}")
    return None


def _explain_misfit(tested: PartUnderTest, case: str) -> str | None:
    """Return why a case does not apply: the regime does not fit the backbone or the tasks."""
    if not isinstance(tested.part, BuildingRegime):
        return None
    backbone, tasks = NETWORK_TASKS[case]
    kinds = frozenset(task.kind for task in tasks)
    misfit = tested.part.explain_misfit(
        build_part("backbone", backbone), build_part("weighting", "ew"), kinds
    )
    return misfit and f"it says that it {misfit}"


def _build_network(tested: PartUnderTest, case: str, pieces: int = 1) -> tuple[MultiTaskNet, Sequence[Task]]:
    """Return the network of the first group, drawn under seed 0, and its tasks."""
    torch.manual_seed(0)
    backbone, tasks = NETWORK_TASKS[case]
    group = tested.part.groups(tasks)[0]
    build = tested.part.build if isinstance(tested.part, BuildingRegime) else MultiTaskNet
    net = build(build_part("backbone", backbone), group, SHAPE, pieces, "float32")
    if not isinstance(net, MultiTaskNet):
        raise ContractError("build() returns a network that is no MultiTaskNet, see bench/training/net.py")
    return net, group


def _draw_images() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def _sum_squares(outputs: Sequence[Tensor]) -> Tensor:
    return torch.stack([output.square().sum() for output in outputs]).sum()


def _gradients(value: Tensor, inputs: Sequence[Tensor | nn.Parameter]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)


REGIME_CHECKS = (
    Check("has the methods of its kind", has_methods_together),
    Check("trains every task once", trains_every_task_once, tuple(COUNTS)),
    Check("trains every parameter", trains_every_parameter_of_its_network, tuple(NETWORK_TASKS)),
    Check(
        "shares what is below the features", reaches_shared_parameters_through_features, tuple(NETWORK_TASKS)
    ),
    Check("splits batches into pieces", splits_batches_into_pieces, tuple(NETWORK_TASKS)),
    Check("learns without labels", learns_without_labels),
)
"""The contract of a regime."""
