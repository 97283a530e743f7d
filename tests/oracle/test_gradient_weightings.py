"""The weightings of gradients, against their papers' closed forms and slow independent computations."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from torch import Tensor
from torchjd import aggregation

from bench.api import Step
from bench.weightings.gradient import GradVac
from tests.oracle.fixed_gradients import fixed, start

Matrix = NDArray[np.float64]


def random_gradients(seed: int, count: int = 4, width: int = 6, spread: float = 1.0) -> Tensor:
    """Gradients [t d] whose norms differ by up to ``spread``; most of them conflict with some other."""
    generator = torch.Generator().manual_seed(seed)
    norms = torch.logspace(0, float(np.log10(spread)), count)
    return norms[:, None] * torch.randn(count, width, generator=generator)


def solve(weighting: str, gradients: Tensor) -> tuple[Matrix, Matrix, Matrix]:
    """Return the gradients [t d], the weights [t] and the step [d] that a weighting gives for them."""
    weights, shared, _ = fixed(gradients).run(start(weighting, len(gradients)))
    return gradients.double().numpy(), weights.double().numpy(), shared.double().numpy()


seeds = pytest.mark.parametrize("seed", range(5))


@seeds
def test_mgda_is_the_shortest_convex_combination(seed: int) -> None:
    gradients, weights, step = solve("mgda", random_gradients(seed, spread=3))
    count = len(gradients)
    best = minimize(
        lambda w: float(w @ gradients @ gradients.T @ w),
        np.full(count, 1 / count),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(step) == pytest.approx(np.sqrt(best.fun), rel=0.04)
    # Karush, Kuhn, Tucker: along the step no gradient is shorter than it, and those with weight are as long.
    along = gradients @ step / (step @ step) - 1
    assert along.min() > -0.1
    assert abs(along[weights > 0.05]).max() < 0.1


@seeds
def test_pcgrad_leaves_no_conflict_between_two_tasks(seed: int) -> None:
    one, two = random_gradients(seed, 2).double()
    if one @ two > 0:
        two = -two
    gradients, _, step = solve("pcgrad", torch.stack([one, two]).float())
    freed = one - (one @ two) / (two @ two) * two, two - (one @ two) / (one @ one) * one
    assert np.allclose(step, (freed[0] + freed[1]).numpy(), atol=1e-4)
    assert (gradients @ step > 0).all()


@seeds
def test_pcgrad_projects_in_one_of_the_orders(seed: int) -> None:
    torch.manual_seed(seed)
    gradients, _, step = solve("pcgrad", random_gradients(seed, 3, 4))
    possible = []
    for orders in product(*(list(permutations({0, 1, 2} - {task})) for task in range(3))):
        total = np.zeros(4)
        for task, order in enumerate(orders):
            freed = gradients[task].copy()
            for other in order:
                freed -= (
                    min(0, freed @ gradients[other])
                    / (gradients[other] @ gradients[other])
                    * gradients[other]
                )
            total += freed
        possible.append(total)
    assert min(np.abs(step - total).max() for total in possible) < 1e-5


def cosine(one: Tensor, two: Tensor) -> float:
    return float(one @ two / one.norm() / two.norm())


def vaccinated(one: Tensor, two: Tensor, goal: float) -> Tensor:
    """The sum of a gradient and so much of another one that their cosine is the goal, if it was less."""
    now = cosine(one, two)
    if now >= goal:
        return one
    across = one - now * one.norm() * two / two.norm()  # at right angles to the other
    return across + across.norm() * goal / np.sqrt(1 - goal**2) * two / two.norm()


def test_gradvac_turns_gradients_to_their_usual_cosine() -> None:
    balancer = start("gradvac(decay=1.0)", 2)
    torch.manual_seed(0)
    alike = torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.1, 0.3]])
    _, shared, _ = fixed(alike).run(balancer)
    assert torch.allclose(shared, alike.sum(0), atol=1e-5)  # no less alike than the start value, 0
    usual = cosine(*alike)
    apart = torch.tensor([[1.0, 0.2, 0.0], [-0.3, 2.0, 0.3]])
    one, two = apart
    _, shared, _ = fixed(apart).run(balancer)
    assert cosine(vaccinated(one, two, usual), two) == pytest.approx(usual, abs=1e-5)
    expected = vaccinated(one, two, usual) + vaccinated(two, one, usual)
    assert torch.allclose(shared, expected, atol=1e-4)


def test_gradvac_turns_all_gradients_at_once_as_a_loop_would() -> None:
    count, decay = 12, 0.3
    gradients = np.random.default_rng(0).normal(0.1, 1.0, (3, count, 30))
    rule, usual = GradVac(decay=decay).rule(count), np.zeros((count, count))
    for number, vectors in enumerate(gradients):
        torch.manual_seed(number)
        weights = rule(torch.from_numpy(vectors @ vectors.T), torch.arange(count))
        torch.manual_seed(number)
        total = np.zeros(30)
        for task, vector in enumerate(vectors):
            turned, others = vector.copy(), np.delete(np.arange(count), task)
            for other in others[torch.randperm(count - 1).numpy()]:
                length, size = np.linalg.norm(turned), np.linalg.norm(vectors[other])
                now, goal = turned @ vectors[other] / (length * size), usual[task, other]
                if now < goal:
                    part = length * (goal * np.sqrt(1 - now**2) - now * np.sqrt(1 - goal**2))
                    turned += part / (size * np.sqrt(1 - goal**2)) * vectors[other]
                usual[task, other] += decay * (now - goal)
            total += turned
        assert np.allclose(weights.numpy() @ vectors, total, atol=1e-9)


def test_gradvac_starts_as_pcgrad() -> None:
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3]])
    assert np.allclose(solve("gradvac", gradients)[2], solve("pcgrad", gradients)[2], atol=1e-4)


@seeds
@pytest.mark.parametrize("radius", [0.2, 0.8])
def test_cagrad_helps_the_worst_task_most(seed: int, radius: float) -> None:
    gradients, _, step = solve(f"cagrad(radius={radius})", random_gradients(seed, spread=3))
    count, mean = len(gradients), gradients.mean(0)
    reach = radius * np.linalg.norm(mean)
    assert np.linalg.norm(step - mean) == pytest.approx(reach, rel=1e-3)
    # The worst gain cannot be larger than the dual's value, and is as large only at the optimum.
    dual = minimize(
        lambda w: float(w @ gradients @ mean + reach * np.linalg.norm(w @ gradients)),
        np.full(count, 1 / count),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )
    assert (gradients @ step).min() == pytest.approx(dual.fun, abs=2e-3 * np.linalg.norm(gradients))


@seeds
@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_nash_mtl_is_the_bargain(seed: int, spread: float) -> None:
    made = random_gradients(seed, spread=spread)
    gradients, weights, step = solve("nash-mtl(max_norm=1e9)", made)
    products = gradients @ gradients.T
    assert weights.min() > 0
    assert weights * (products @ weights) == pytest.approx(np.full(4, np.linalg.norm(products)), rel=1e-3)
    _, _, short = solve("nash-mtl", made)
    assert np.linalg.norm(short) == pytest.approx(1, rel=1e-4)
    assert np.allclose(short, step / np.linalg.norm(step), atol=1e-4)


def test_nash_mtl_does_not_lengthen_short_steps() -> None:
    made = 1e-3 * random_gradients(0)
    assert np.allclose(solve("nash-mtl", made)[2], solve("nash-mtl(max_norm=1e9)", made)[2])


@seeds
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_fairgrad_solves_its_equation(seed: int, alpha: float, spread: float) -> None:
    gradients, weights, step = solve(f"fairgrad(alpha={alpha})", random_gradients(seed, spread=spread))
    assert weights.min() > 0
    assert (gradients @ gradients.T @ weights) * weights ** (1 / alpha) == pytest.approx(np.ones(4), rel=1e-3)
    if alpha == 1:
        assert np.linalg.norm(step) == pytest.approx(2, rel=1e-3)


def test_nash_mtl_and_fairgrad_stay_sane_where_nothing_can_be_agreed_on() -> None:
    opposed = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    for name in ("nash-mtl", "fairgrad"):
        _, weights, step = solve(name, opposed)
        assert np.isfinite(weights).all()
        assert np.linalg.norm(step) < 2
        assert step[1] > 0


@seeds
def test_imtl_g_goes_as_far_along_every_gradient(seed: int) -> None:
    gradients, weights, step = solve("imtl-g", random_gradients(seed, spread=10))
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    along = units @ step
    assert along == pytest.approx(np.full(4, along.mean()), rel=1e-2)
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    # The paper's closed form for all tasks but the first.
    differences, turns = gradients[0] - gradients[1:], units[0] - units[1:]
    rest = gradients[0] @ turns.T @ np.linalg.inv(differences @ turns.T)
    assert weights[1:] == pytest.approx(rest, rel=1e-2, abs=1e-3)


@seeds
def test_config_has_the_same_cosine_to_every_gradient(seed: int) -> None:
    made = random_gradients(seed, spread=10)
    gradients, _, step = solve("config", made)
    cosines = gradients @ step / np.linalg.norm(gradients, axis=1) / np.linalg.norm(step)
    assert cosines == pytest.approx(np.full(4, cosines.mean()), rel=1e-3)
    length = float((gradients @ step).sum() / np.linalg.norm(step))
    assert np.linalg.norm(step) == pytest.approx(length, rel=1e-4)
    assert np.allclose(step, aggregation.ConFIG()(made).numpy(), atol=1e-3 * length)


@seeds
@pytest.mark.parametrize("rank", [4, 2])
def test_aligned_mtl_makes_all_principal_components_equal(seed: int, rank: int) -> None:
    made = random_gradients(seed, 4, rank, spread=1) @ random_gradients(seed + 100, rank, 6)
    gradients, _, step = solve("aligned-mtl", made)
    left, sizes, right = np.linalg.svd(gradients, full_matrices=False)
    aligned = sizes[rank - 1] * left[:, :rank] @ right[:rank]
    assert np.linalg.svd(aligned)[1][:rank] == pytest.approx(np.full(rank, sizes[rank - 1]))
    assert np.allclose(step, aligned.sum(0), atol=2e-2 * sizes[rank - 1])


@seeds
def test_upgrad_is_the_mean_of_gradients_projected_to_where_nobody_loses(seed: int) -> None:
    gradients, _, step = solve("upgrad", random_gradients(seed))
    # Moreau: the projection on {d: G d >= 0} is g + G' v with the v >= 0 that makes it shortest.
    projected = [gradient + gradients.T @ nnls(gradients.T, -gradient)[0] for gradient in gradients]
    assert np.allclose(step, np.mean(projected, axis=0), atol=5e-3)
    assert (gradients @ step).min() > -1e-2


def pushes_step(values: Tensor, features: Tensor) -> Step:
    """A step whose tasks have these gradients [t b d] of these features [b d]."""
    shared = torch.nn.Parameter(features.clone())
    read = shared * 1
    losses = torch.stack([(value * read).sum() for value in values])
    return Step(losses, torch.ones(len(values), dtype=torch.bool), read, [shared], losses.detach)


def test_graddrop_passes_one_sign_per_feature() -> None:
    torch.manual_seed(0)
    values, features = torch.randn(3, 4, 5), torch.randn(4, 5)
    step = pushes_step(values, features)
    torch.manual_seed(1)
    weights = start("graddrop", 3).backward(step)
    torch.manual_seed(1)
    drawn = torch.rand(5)
    expected, passed = torch.zeros(4, 5), torch.zeros(3, 5)
    for feature in range(5):
        push = [
            sum(float(values[k, i, feature] * features[i, feature].sign()) for i in range(4))
            for k in range(3)
        ]
        purity = (1 + sum(push) / sum(map(abs, push))) / 2
        for task in range(3):
            if (push[task] > 0) == (purity > drawn[feature]):
                passed[task, feature] = 1
                expected[:, feature] += values[task, :, feature]
    assert step.shared[0].grad is not None
    assert torch.allclose(step.shared[0].grad, expected, atol=1e-5)
    assert torch.allclose(weights, passed.mean(1))


def test_graddrop_draws_a_sign_as_often_as_it_is_pure() -> None:
    torch.manual_seed(0)
    values = torch.tensor([3.0, -1.0])[:, None, None].expand(2, 1, 4000)
    weights = start("graddrop", 2).backward(pushes_step(values, torch.ones(1, 4000)))
    assert weights.tolist() == pytest.approx([0.75, 0.25], abs=0.03)
    assert float(weights.sum()) == pytest.approx(1)


def test_graddrop_leaks() -> None:
    values, features = torch.randn(3, 4, 5), torch.randn(4, 5)
    step = pushes_step(values, features)
    assert start("graddrop(leak=1.0)", 3).backward(step).tolist() == [1, 1, 1]
    assert step.shared[0].grad is not None
    assert torch.allclose(step.shared[0].grad, values.sum(0), atol=1e-5)
