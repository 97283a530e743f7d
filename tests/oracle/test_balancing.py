"""STCH, IMTL, ExcessMTL and DB-MTL against an independent library, and against cases worked by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation, scalarization

from bench.api import Balancer
from tests.oracle.fixed_gradients import fixed, start

GRADIENTS = torch.tensor([[2.0, 0.5, -1.0, 0.3], [-0.5, 1.5, 0.2, -0.4], [0.4, -1.0, 0.8, 1.2]])
LOSSES = (0.5, 2.0, 1.0)
ALL = ("stch", "imtl", "excess-mtl", "db-mtl")


def warmed(name: str, count: int, losses: Sequence[float]) -> Balancer:
    """Return a balancer after one epoch of warm-up with these mean losses."""
    balancer = start(name, count)
    balancer.finish_epoch(torch.tensor(losses))
    return balancer


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("mu", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("losses", [LOSSES, (1e-6, 3.0, 1e6)])
def test_stch_is_the_gradient_of_torchjds(mu: float, losses: tuple[float, ...]) -> None:
    reference = (1.0, 0.5, 4.0)
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    smooth = scalarization.STCH(mu, weights=torch.ones(3, dtype=torch.float64))
    smooth((values / torch.tensor(reference)).log()).backward()
    assert values.grad is not None
    balancer = warmed(f"stch(mu={mu}, warmup=1)", 3, reference)
    weights, shared, _ = fixed(GRADIENTS, losses).run(balancer)
    assert torch.allclose(weights.double(), values.grad, rtol=1e-4)
    assert torch.allclose(shared, weights @ GRADIENTS, rtol=1e-4, atol=1e-6)


def test_stch_starts_with_the_logarithms_of_the_losses() -> None:
    weights, _, heads = fixed(GRADIENTS, LOSSES).run(start("stch", 3))
    assert torch.allclose(weights, 1 / (3 * torch.tensor(LOSSES)))
    assert torch.equal(heads, weights)


def scales_of(balancer: Balancer) -> nn.Parameter:
    (scales,) = balancer.parameters()
    return scales  # type: ignore[return-value]


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (1e-6, 1.0, 1e3)])
def test_imtl_goes_equally_far_along_every_scaled_gradient(sizes: tuple[float, ...]) -> None:
    gradients = GRADIENTS * torch.tensor(sizes)[:, None]
    balancer = start("imtl", 3)
    scales = scales_of(balancer)
    scales.data[:] = torch.tensor([0.5, -1.0, 2.0])
    weights, shared, heads = fixed(gradients, LOSSES).run(balancer)
    lengths = unit(gradients) @ shared
    assert torch.allclose(lengths, lengths[0].expand(3), rtol=1e-3)
    factors = scales.detach().exp()
    assert (weights / factors).sum() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(shared, weights @ gradients, rtol=1e-4)
    assert torch.allclose(heads, factors)
    assert scales.grad is not None
    assert torch.allclose(scales.grad, factors * torch.tensor(LOSSES) - 1)


def test_imtl_has_no_answer_for_opposite_gradients() -> None:
    weights, shared, heads = fixed(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).run(start("imtl", 2))
    assert weights.isnan().all()
    assert not shared.any()
    assert heads.tolist() == [1, 1]


def test_excess_mtl_weighs_as_torchjd() -> None:
    theirs = aggregation.ExcessMTLWeighting(1.0, n_warmup_steps=4)
    ours = start("excess-mtl(step_size=1.0, warmup=1)", 3)
    generator = torch.Generator().manual_seed(0)
    for number in range(9):
        if number == 4:
            ours.finish_epoch(torch.ones(3))
        gradients = torch.randn(3, 6, generator=generator) * torch.tensor([1.0, 1e-3, 1e3])[:, None]
        weights, shared, heads = fixed(gradients).run(ours)
        assert torch.allclose(weights, theirs(gradients), atol=1e-4)
        assert torch.allclose(shared, weights @ gradients, rtol=1e-4, atol=1e-5)
        assert heads.tolist() == [1, 1, 1]


def test_excess_mtl_keeps_the_weight_of_a_task_without_a_gradient() -> None:
    balancer = start("excess-mtl(step_size=1.0, warmup=1)", 3)
    zero = GRADIENTS * torch.tensor([1.0, 0.0, 1.0])[:, None]
    fixed(zero).run(balancer)
    balancer.finish_epoch(torch.ones(3))
    weights, _, _ = fixed(zero).run(balancer)
    assert weights.isfinite().all()
    gains = np.array([0.5**0.5, 0, 0.5**0.5])  # the second of two equal steps: g² / √(2 g²)
    assert weights.numpy() == pytest.approx(np.exp(gains) / np.exp(gains).sum(), abs=1e-4)


def test_db_mtl_averages_and_scales_to_the_longest() -> None:
    balancer = start("db-mtl(beta=0.8, decay=1)", 3)
    first, second = GRADIENTS, GRADIENTS.roll(1, 0)
    fixed(first, LOSSES).run(balancer)
    weights, shared, heads = fixed(second, LOSSES).run(balancer)
    losses = np.array(LOSSES)[:, None]
    average = 0.2 * first.numpy() / losses  # of the first step: β = 0.8, of the second: 0.4
    average = 0.6 * second.numpy() / losses + 0.4 * average
    lengths = np.linalg.norm(average, axis=1)
    scales = lengths.max() / lengths
    assert shared.numpy() == pytest.approx(scales @ average, rel=1e-4)
    assert weights.numpy() == pytest.approx(scales / losses[:, 0], rel=1e-4)
    assert heads.numpy() == pytest.approx(1 / losses[:, 0], rel=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e15])
def test_db_mtl_brings_gradients_of_any_size_to_one_length(size: float) -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, size]])
    _, shared, _ = fixed(gradients).run(start("db-mtl(beta=0)", 2))
    assert shared.tolist() == pytest.approx([max(1, size)] * 2, rel=1e-4)


def test_db_mtl_keeps_the_average_of_a_task_without_a_label() -> None:
    balancer = start("db-mtl(beta=0.5, decay=0)", 2)
    gradients = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    fixed(gradients).run(balancer)
    weights, shared, _ = fixed(gradients, labeled=[True, False]).run(balancer)
    assert (weights[1], shared.tolist()) == (0, pytest.approx([0.75, 0]))
    _, shared, _ = fixed(gradients).run(balancer)
    assert shared.tolist() == pytest.approx([3.0, 3.0])  # 0.875 and 3, scaled to 3


@pytest.mark.parametrize("name", ALL)
def test_a_task_without_a_label_has_no_weight(name: str) -> None:
    balancer = start(name, 3)
    for labeled in ((True, False, True), (False, False, False), (False, True, False), (True, True, True)):
        weights, shared, heads = fixed(GRADIENTS, LOSSES, labeled).run(balancer)
        assert [bool(weight) for weight in weights] == list(labeled) or not any(labeled)
        assert shared.isfinite().all()
        assert [bool(head) for head in heads] == list(labeled)
        balancer.finish_epoch(torch.tensor(LOSSES) * torch.tensor(labeled))


@pytest.mark.parametrize("name", ALL)
def test_one_task_is_trained_in_the_direction_of_its_gradient(name: str) -> None:
    balancer = start(name, 1)
    for number in range(4):
        weights, shared, _ = fixed(GRADIENTS[:1], [1.5 / (number + 1)]).run(balancer)
        assert torch.allclose(unit(shared), unit(GRADIENTS[0]), atol=1e-5)
        assert weights > 0
        balancer.finish_epoch(torch.tensor([1.0 / (number + 1)]))


@pytest.mark.parametrize("name", ALL)
def test_no_gradient_at_all_moves_nothing(name: str) -> None:
    _, shared, _ = fixed(torch.zeros(2, 3)).run(start(name, 2))
    assert not shared.any()
