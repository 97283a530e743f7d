"""The weightings of losses against closed forms and an independent library; what all weightings keep to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from bench.api import Balancer, Step
from bench.backbones.dense import DenseSmall
from bench.backbones.small import Small
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.segmentation import Segmentation
from bench.training.loop import losses_of_outputs
from bench.training.net import MultiTaskNet
from bench.values import MISSING
from tests.oracle.fixed_gradients import fixed, start, tasks

ALL = (
    "ew",
    "uw",
    "dwa",
    "rlw",
    "gls",
    "imtl-l",
    "famo",
    "gradnorm",
    "graddrop",
    "pcgrad",
    "gradvac",
    "mgda",
    "cagrad",
    "imtl-g",
    "nash-mtl",
    "fairgrad",
    "aligned-mtl",
    "upgrad",
    "config",
)
"""The weightings whose mathematics is checked here; every weighting of the catalog passes tests/contract."""
OF_LOSSES = ("ew", "uw", "dwa", "rlw", "gls", "imtl-l", "famo", "gradnorm")
WITH_WEIGHTS = tuple(name for name in ALL if name != "graddrop")

GRADIENTS = torch.tensor([[2.0, 0.5, -1.0, 0.3], [-0.5, 1.5, 0.2, -0.4], [0.4, -1.0, 0.8, 1.2]])
"""Of three tasks, the first two in conflict with others."""
LOSSES = (0.5, 2.0, 1.0)


def each(names: Sequence[str]) -> pytest.MarkDecorator:
    """Run a test for every one of these weightings."""
    return pytest.mark.parametrize("name", names)


def epochs(balancer: Balancer, *means: Sequence[float]) -> Balancer:
    """Let a balancer see the mean losses of some epochs."""
    for losses in means:
        balancer.finish_epoch(torch.tensor(losses))
    return balancer


def direction(vector: Tensor) -> Tensor:
    return vector / vector.norm()


# What all keep to


@each(ALL)
def test_one_task_is_trained_as_it_would_be_alone(name: str) -> None:
    balancer = start(name, 1)
    for number in range(3):
        torch.manual_seed(number)
        gradient = torch.randn(1, 5)
        _, shared, heads = fixed(gradient, [1.5 / (number + 1)]).run(balancer)
        assert torch.allclose(direction(shared), direction(gradient[0]), atol=1e-5)
        assert heads[0] > 0
        balancer.finish_epoch(torch.tensor([1.0 / (number + 1)]))


@each([name for name in ALL if name not in ("rlw", "pcgrad", "gradvac")])
def test_the_order_of_the_tasks_does_not_matter(name: str) -> None:
    order = torch.tensor([2, 0, 1])

    def train(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        balancer = start(name, 3)
        torch.manual_seed(0)
        for losses in (torch.tensor(LOSSES), torch.tensor((0.4, 1.9, 0.6)), torch.tensor((0.3, 1.2, 0.7))):
            result = fixed(GRADIENTS[chosen], losses[chosen]).run(balancer)
            balancer.finish_epoch(losses[chosen])
        return result

    weights, shared, heads = train(torch.arange(3))
    other_weights, other_shared, other_heads = train(order)
    assert torch.allclose(shared, other_shared, atol=1e-4)
    assert torch.allclose(weights[order], other_weights, atol=1e-4)
    assert torch.allclose(heads[order], other_heads, atol=1e-4)


@each(["pcgrad", "gradvac"])
def test_the_order_of_two_tasks_does_not_matter_where_the_order_is_drawn(name: str) -> None:
    _, shared, _ = fixed(GRADIENTS[:2]).run(start(name, 2))
    _, other, _ = fixed(GRADIENTS[:2].flip(0)).run(start(name, 2))
    assert torch.allclose(shared, other, atol=1e-5)


@each(ALL)
@pytest.mark.parametrize("missing", [0, 2])
def test_a_task_without_a_label_is_left_out_of_the_balance(name: str, missing: int) -> None:
    labeled = [task != missing for task in range(3)]
    torch.manual_seed(0)
    weights, shared, heads = fixed(GRADIENTS, LOSSES, labeled).run(start(name, 3))
    torch.manual_seed(0)
    others = torch.tensor(labeled)
    _, alone, _ = fixed(GRADIENTS[others], torch.tensor(LOSSES)[others]).run(start(name, 2))
    assert torch.allclose(direction(shared), direction(alone), atol=1e-5)
    assert heads[missing] == 0
    assert name == "ew" or weights[missing] == 0
    assert (heads[others] > 0).all()


@each(ALL)
def test_labels_may_come_and_go(name: str) -> None:
    balancer = start(name, 3)
    for number, labeled in enumerate([(1, 1, 0), (0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)]):
        torch.manual_seed(number)
        step = fixed(torch.randn(3, 5), torch.rand(3) + 0.1, [bool(label) for label in labeled])
        weights, shared, heads = step.run(balancer)
        assert weights.isfinite().all()
        assert shared.isfinite().all()
        assert heads.isfinite().all()
        assert bool(shared.any()) == any(labeled)
        assert all(parameter.isfinite().all() for parameter in balancer.parameters())
        balancer.finish_epoch(torch.tensor([0.0, 1.0, 0.5 * number]))


@each(ALL)
def test_a_task_that_is_solved_does_no_harm(name: str) -> None:
    balancer = start(name, 3)
    gradients = GRADIENTS.clone()
    gradients[1] = 0
    for losses in (LOSSES, (0.5, 0.0, 1.0), (0.4, 0.0, 0.9)):
        weights, shared, _ = fixed(gradients, losses).run(balancer)
        balancer.finish_epoch(torch.tensor(losses))
        assert weights.isfinite().all()
        assert shared.isfinite().all()
        assert shared.any()


@each(ALL)
def test_gradients_may_be_of_any_size(name: str) -> None:
    for size in (1e-4, 1e4):
        torch.manual_seed(0)
        _, shared, _ = fixed(size * GRADIENTS, LOSSES).run(start(name, 3))
        torch.manual_seed(0)
        _, usual, _ = fixed(GRADIENTS, LOSSES).run(start(name, 3))
        assert torch.allclose(direction(shared), direction(usual), atol=1e-3)


@each([name for name in ALL if name not in OF_LOSSES])
def test_a_training_that_diverges_is_not_stopped(name: str) -> None:
    weights, shared, _ = fixed(GRADIENTS * torch.tensor([[1.0], [math.nan], [1.0]])).run(start(name, 3))
    assert weights.isfinite().all()
    assert shared.isnan().all() or name == "graddrop"


@each(OF_LOSSES)
def test_weights_of_losses_hold_for_shared_parameters_and_heads(name: str) -> None:
    weights, shared, heads = fixed(GRADIENTS, LOSSES).run(start(name, 3))
    assert torch.allclose(shared, weights @ GRADIENTS, atol=1e-5)
    assert torch.allclose(heads, weights, atol=1e-6)


@each([name for name in WITH_WEIGHTS if name not in OF_LOSSES])
def test_weights_of_gradients_hold_for_shared_parameters_only(name: str) -> None:
    weights, shared, heads = fixed(GRADIENTS, LOSSES).run(start(name, 3))
    assert torch.allclose(shared, weights @ GRADIENTS, atol=1e-5)
    assert heads.tolist() == [1, 1, 1]


# On networks


def small_step() -> tuple[Step, MultiTaskNet]:
    """A step of a network with batch normalization; some labels are missing."""
    torch.manual_seed(0)
    asked = (*tasks(2), Classification("three", ("a", "b", "c")))
    net = MultiTaskNet(Small(width=2), asked, (3, 16, 16)).train()
    targets = {task.name: torch.randint(0, task.classes, (8,)) for task in asked}
    targets["three"][:5] = MISSING
    images = torch.rand(8, 3, 16, 16)
    features = net.encode(images)
    losses = losses_of_outputs(net.apply_heads(features, images), asked, targets)
    return Step(
        losses, torch.ones(3, dtype=torch.bool), features, net.shared_parameters(), losses.detach
    ), net


def dense_step() -> tuple[Step, MultiTaskNet]:
    """A step of a network with two dense tasks and one label."""
    torch.manual_seed(0)
    asked = (Segmentation("what", ("a", "b", "c")), Depth("far", 0.1, 10.0), *tasks(1))
    net = MultiTaskNet(DenseSmall(width=2), asked, (3, 16, 16)).train()
    targets = {
        "what": torch.randint(0, 3, (4, 16, 16)),
        "far": torch.rand(4, 1, 16, 16) + 0.5,
        "task 0": torch.randint(0, 2, (4,)),
    }
    images = torch.rand(4, 3, 16, 16)
    features = net.encode(images)
    losses = losses_of_outputs(net.apply_heads(features, images), asked, targets)
    return Step(
        losses, torch.ones(3, dtype=torch.bool), features, net.shared_parameters(), losses.detach
    ), net


STEPS = pytest.mark.parametrize("make_step", [small_step, dense_step])


def jacobian(step: Step) -> Tensor:
    """The tasks' gradients of the shared parameters, [t p]."""
    rows = [torch.autograd.grad(loss, list(step.shared), retain_graph=True) for loss in step.losses]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def flat(step: Step) -> Tensor:
    """The gradient of the shared parameters, [p]."""
    parts = [parameter.grad for parameter in step.shared if parameter.grad is not None]
    assert len(parts) == len(step.shared)
    return torch.cat([part.flatten() for part in parts])


@STEPS
@each(WITH_WEIGHTS)
def test_networks_get_the_weighted_gradients(
    name: str, make_step: Callable[[], tuple[Step, MultiTaskNet]]
) -> None:
    step, net = make_step()
    gradients = jacobian(step)
    own = [p for p in net.parameters() if all(p is not shared for shared in step.shared)]
    alone = torch.autograd.grad(step.losses.sum(), own, retain_graph=True)
    statistics = [buffer.clone() for buffer in net.buffers()]
    weights = start(name, 3).backward(step)
    scale = gradients.abs().max()
    assert torch.allclose(flat(step) / scale, weights @ gradients / scale, atol=1e-4)
    if name not in OF_LOSSES:
        for parameter, gradient in zip(own, alone, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert all(torch.equal(*pair) for pair in zip(net.buffers(), statistics, strict=True))


@STEPS
@each(["mgda", "imtl-g", "aligned-mtl", "pcgrad"])
def test_gradients_of_the_features_take_the_place_of_those_of_the_parameters(
    name: str, make_step: Callable[[], tuple[Step, MultiTaskNet]]
) -> None:
    step, _ = make_step()
    of_features = [torch.autograd.grad(loss, step.features, retain_graph=True)[0] for loss in step.losses]
    expected = jacobian(step)
    torch.manual_seed(0)
    weights = start(f"{name}(gradients=features)", 3).backward(step)
    assert torch.allclose(flat(step), weights @ expected, atol=1e-5 * float(expected.abs().max()))
    torch.manual_seed(0)
    direct = fixed(torch.stack(of_features).flatten(1)).run(start(f"{name}(gradients=parameters)", 3))[0]
    assert torch.allclose(weights, direct, atol=1e-4)


@each(ALL)
def test_heads_can_be_trained_on_frozen_features(name: str) -> None:
    step, net = small_step()
    frozen = replace(step, shared=[])
    weights = start(name, 3).backward(frozen)
    assert weights.isfinite().all()
    assert isinstance(net.heads.weight, Tensor)
    assert net.heads.weight.grad is not None
    assert net.heads.weight.grad.any(1).all()


# Each against its paper


def test_random_weights_are_equal_weights_on_average() -> None:
    torch.manual_seed(0)
    balancer = start("rlw", 3)
    drawn = torch.stack([fixed(GRADIENTS).run(balancer)[0] for _ in range(2000)])
    assert torch.allclose(drawn.sum(1), torch.ones(2000), atol=1e-5)
    assert (drawn > 0).all()
    assert torch.allclose(drawn.mean(0), torch.full((3,), 1 / 3), atol=0.015)
    odds = (drawn[:, 0] / drawn[:, 1]).log()  # the difference of two normal numbers
    assert float(odds.std()) == pytest.approx(math.sqrt(2), abs=0.1)


def test_the_weights_of_the_geometric_mean_are_its_derivatives() -> None:
    losses = torch.tensor(LOSSES, requires_grad=True)
    scalarization.GeometricMean()(losses).backward()
    weights, _, _ = fixed(GRADIENTS, LOSSES).run(start("gls", 3))
    assert losses.grad is not None
    assert torch.allclose(weights, losses.grad)
    assert weights.tolist() == pytest.approx([1 / (3 * loss) for loss in LOSSES])  # whose mean is 1


def test_dynamic_weights_go_by_the_last_two_epochs() -> None:
    balancer, library = start("dwa", 3), scalarization.DWA(2.0)
    history = [(1.0, 2.0, 4.0), (0.5, 1.8, 4.4), (0.4, 1.6, 2.2)]
    for before, losses in pairwise([None, *history, (0.1, 0.2, 0.3)]):
        assert losses is not None
        if before is not None:
            balancer.finish_epoch(torch.tensor(before))
            library(torch.tensor(before))
            library.step()
        values = torch.tensor(losses, requires_grad=True)
        copied = scalarization.DWA(2.0)
        copied._previous_averages = library._previous_averages
        copied(values).backward()
        weights, _, _ = fixed(GRADIENTS, losses).run(balancer)
        assert values.grad is not None
        assert torch.allclose(weights, values.grad)
    shares = [math.exp(ratio / 2) for ratio in (0.8, 1.6 / 1.8, 0.5)]
    assert weights.tolist() == pytest.approx([3 * share / sum(shares) for share in shares], rel=1e-5)


def test_a_task_without_a_loss_in_an_epoch_counts_as_one_that_stands_still() -> None:
    weights, _, _ = fixed(GRADIENTS).run(epochs(start("dwa", 3), (0.0, 1.0, 1.0), (0.0, 1.0, 0.5)))
    assert weights[0] == weights[1] > weights[2]


def test_uncertainties_settle_where_every_loss_counts_the_same() -> None:
    balancer = start("uw", 3)
    (learned,) = balancer.parameters()
    assert learned.tolist() == [-0.5] * 3
    optimizer = torch.optim.Adam([learned], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        weights, _, _ = fixed(GRADIENTS, LOSSES).run(balancer)
        optimizer.step()
    assert learned.tolist() == pytest.approx([math.log(loss) for loss in LOSSES], abs=0.01)
    assert (weights * torch.tensor(LOSSES)).tolist() == pytest.approx([0.5] * 3, abs=0.01)


def test_scales_of_losses_settle_where_they_bring_all_to_one() -> None:
    balancer = start("imtl-l", 3)
    (learned,) = balancer.parameters()
    optimizer = torch.optim.Adam([learned], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        weights, _, _ = fixed(GRADIENTS, LOSSES).run(balancer)
        optimizer.step()
    assert (weights * torch.tensor(LOSSES)).tolist() == pytest.approx([1.0] * 3, abs=0.01)


@pytest.mark.parametrize(
    ("name", "library", "at"),
    [("uw", scalarization.UW(3), -0.5), ("imtl-l", scalarization.IMTLL(3), 0.0)],
)
def test_learnt_scales_have_the_gradients_of_an_independent_library(
    name: str, library: scalarization.UW | scalarization.IMTLL, at: float
) -> None:
    (theirs,) = library.parameters()
    torch.nn.init.constant_(theirs, at)
    losses = torch.tensor(LOSSES, requires_grad=True)
    library(losses).backward()
    balancer = start(name, 3)
    weights, _, _ = fixed(GRADIENTS, LOSSES).run(balancer)
    (ours,) = balancer.parameters()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert losses.grad is not None
    assert torch.allclose(ours.grad, theirs.grad)
    assert torch.allclose(weights, losses.grad)


@pytest.mark.parametrize("name", ["uw", "imtl-l"])
def test_the_scale_of_a_task_without_a_label_is_not_moved(name: str) -> None:
    balancer = start(name, 3)
    fixed(GRADIENTS, (0.5, 2.0, 0.7), [True, False, True]).run(balancer)
    (learned,) = balancer.parameters()
    assert learned.grad is not None
    assert (learned.grad != 0).tolist() == [True, False, True]


FALLING = [
    ((0.5, 2.0, 1.0), (0.45, 1.9, 0.5)),
    ((0.2, 1.8, 0.45), (0.19, 1.0, 0.4)),
    ((0.6, 0.3, 0.7), (0.7, 0.2, 0.6)),
]
"""The losses of one batch after the other, before and after its step."""


def test_famo_follows_an_independent_library() -> None:
    balancer, library = start("famo", 3), scalarization.FAMO(3)
    for before, after in FALLING:
        values = torch.tensor(before, requires_grad=True)
        library(values).backward()
        library.update(torch.tensor(after))
        weights, _, _ = fixed(GRADIENTS, before, after=after).run(balancer)
        assert values.grad is not None
        assert torch.allclose(weights, values.grad, atol=1e-6)


def test_famo_by_hand_for_two_steps() -> None:
    balancer = start("famo", 3)
    (before, after), (other, _), _ = FALLING
    first, _, _ = fixed(GRADIENTS, before, after=after).run(balancer)
    inverse = [1 / loss for loss in before]
    assert first.tolist() == pytest.approx([rate / sum(inverse) for rate in inverse])
    second, _, _ = fixed(GRADIENTS, other).run(balancer)
    # The first two losses fell less than the mean of all, so Adam's first step lifts their weight.
    rates = [math.exp(0.025 * sign) / loss for sign, loss in zip((1, 1, -1), other, strict=True)]
    assert second.tolist() == pytest.approx([rate / sum(rates) for rate in rates], rel=1e-4)


def test_only_famo_asks_for_the_losses_after_a_step() -> None:
    asked: list[str] = []
    for name in ALL:
        made = fixed(GRADIENTS, LOSSES)
        step = replace(
            made.step, recompute_losses=lambda name=name: asked.append(name) or torch.tensor(LOSSES)
        )
        replace(made, step=step).run(start(name, 3))
    assert asked == ["famo"]


def test_gradnorm_brings_gradients_to_equal_norms_where_tasks_learn_alike() -> None:
    balancer = start("gradnorm", 3)
    for _ in range(150):
        weights, _, _ = fixed(GRADIENTS, LOSSES).run(balancer)
        assert float(weights.sum()) == pytest.approx(3, rel=1e-4)
    norms = weights * GRADIENTS.norm(dim=1)
    assert norms.tolist() == pytest.approx([float(norms.mean())] * 3, rel=0.06)


def test_gradnorm_gives_longer_gradients_to_tasks_that_lag_behind() -> None:
    balancer = start("gradnorm", 3)
    fixed(GRADIENTS, LOSSES).run(balancer)
    later = (0.25, 1.8, 0.5)  # relative to the first losses: 0.5, 0.9, 0.5
    for _ in range(200):
        weights, _, _ = fixed(GRADIENTS, later).run(balancer)
    rates = torch.tensor([0.5, 0.9, 0.5])
    targets = (rates / rates.mean()) ** 1.5
    norms = weights * GRADIENTS.norm(dim=1)
    assert (norms / norms.sum()).tolist() == pytest.approx((targets / targets.sum()).tolist(), rel=0.08)


def test_gradnorm_by_hand_for_one_step() -> None:
    balancer = start("gradnorm", 3)
    weights, _, _ = fixed(GRADIENTS, LOSSES).run(balancer)
    assert weights.tolist() == [1, 1, 1]
    weights, _, _ = fixed(GRADIENTS, LOSSES).run(balancer)
    norms = GRADIENTS.norm(dim=1)
    moved = 1 - 0.025 * (norms - norms.mean()).sign()  # Adam's first step is as long as its learning rate
    assert weights.tolist() == pytest.approx((3 * moved / moved.sum()).tolist(), rel=1e-4)


def test_gradnorm_reads_the_last_shared_layer() -> None:
    step, net = small_step()
    layer = net.representation[0].weight  # type: ignore[index]
    norms = torch.stack(
        [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in step.losses]
    )
    balancer = start("gradnorm", 3)
    balancer.backward(step)
    moved = 1 - 0.025 * (norms - norms.mean()).sign()
    weights, _, _ = fixed(GRADIENTS).run(balancer)
    assert weights.tolist() == pytest.approx((3 * moved / moved.sum()).tolist(), rel=1e-4)


def test_weights_of_frozen_networks_are_what_they_were() -> None:
    balancer = start("gradnorm", 3)
    for _ in range(2):
        step, _ = small_step()
        weights = balancer.backward(replace(step, shared=[]))
        assert weights.tolist() == [1, 1, 1]
