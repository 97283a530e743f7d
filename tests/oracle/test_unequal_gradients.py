"""Weightings of gradients whose norms differ by up to a million, as those of a task with a shortcut do.

Every step is held against what defines it in the paper, in double precision and without the solver's help:
its equations, its optimality conditions, or a computation on the gradients themselves.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor

from tests.oracle.fixed_gradients import fixed, start

Matrix = NDArray[np.float64]

RATIOS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
COUNTS = pytest.mark.parametrize("count", [2, 3, 8, 40])
WIDTH = 60
"""Shared parameters of the examples."""

TOLERANCE = 2e-6
"""Relative to the step: gradients, weights and steps are in single precision."""


def unequal_gradients(count: int) -> list[Tensor]:
    """Gradients [t d], for every ratio: one conflicts with the others and is shorter, or all norms differ."""
    torch.manual_seed(count)
    own, common = torch.randn(count, WIDTH), torch.randn(WIDTH)
    units = torch.nn.functional.normalize(
        0.6 * own / own.norm(dim=1, keepdim=True) + 0.8 * common / common.norm()
    )
    units[0] = torch.nn.functional.normalize(own[0] / own[0].norm() - 0.8 * common / common.norm(), dim=0)
    made = []
    for ratio in RATIOS if count < 40 else RATIOS[::3]:
        one = torch.ones(count)
        one[0] = ratio
        made += [units * one[:, None], units * torch.logspace(0, float(np.log10(ratio)), count)[:, None]]
    return made


def solve(weighting: str, made: Tensor) -> tuple[Matrix, Matrix, Matrix]:
    """Return the gradients [t d], the weights [t] and the step [d] that a weighting gives for them."""
    weights, shared, _ = fixed(made).run(start(weighting, len(made)))
    return made.double().numpy(), weights.double().numpy(), shared.double().numpy()


def unit_rows(gradients: Matrix) -> Matrix:
    rows: Matrix = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    return rows


def cosines(gradients: Matrix, step: Matrix) -> Matrix:
    found: Matrix = unit_rows(gradients) @ step / np.linalg.norm(step)
    return found


def assert_close(step: Matrix, wanted: Matrix) -> None:
    assert np.linalg.norm(step - wanted) < TOLERANCE * np.linalg.norm(wanted)


@COUNTS
def test_mgda_is_the_shortest_convex_combination(count: int) -> None:
    for made in unequal_gradients(count):
        gradients, weights, step = solve("mgda", made)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1, abs=TOLERANCE)
        # Karush, Kuhn, Tucker: no gradient goes less far along the step than the step does itself.
        reach = np.linalg.norm(step) / np.linalg.norm(gradients, axis=1)
        assert (cosines(gradients, step) - reach).min() > -TOLERANCE


def test_mgda_of_two_is_the_papers_closed_form() -> None:
    for made in unequal_gradients(2):
        (one, two), _, step = solve("mgda", made)
        share = np.clip((two - one) @ two / ((two - one) @ (two - one)), 0, 1)
        assert_close(step, share * one + (1 - share) * two)


@COUNTS
@pytest.mark.parametrize("radius", [0.4, 1.0])
def test_cagrad_helps_the_worst_task_most(count: int, radius: float) -> None:
    for made in unequal_gradients(count):
        gradients, weights, step = solve(f"cagrad(radius={radius})", made)
        mean = gradients.mean(0)
        reach = radius * np.linalg.norm(mean)
        assert np.linalg.norm(step - mean) == pytest.approx(reach, rel=TOLERANCE)
        # Any convex combination bounds the worst task's gain from above; that in the weights is as low as it.
        added = weights - 1 / count
        assert added.min() > -1e-7
        combination = added @ gradients / added.sum()
        bound = combination @ mean + reach * np.linalg.norm(combination)
        gains = gradients @ step
        worst = np.linalg.norm(gradients, axis=1)[gains.argmin()] * np.linalg.norm(mean)
        assert abs(bound - gains.min()) < 10 * TOLERANCE * worst


@COUNTS
def test_upgrad_is_the_mean_of_gradients_projected_to_where_nobody_loses(count: int) -> None:
    for made in unequal_gradients(count):
        gradients, _, step = solve("upgrad", made)
        units = unit_rows(gradients)
        projected = [  # Moreau: the projection is g + U' v with the v >= 0 that makes it shortest
            gradient + units.T @ lsq_linear(units.T, -gradient, (0, np.inf), "bvls", tol=1e-14).x
            for gradient in gradients
        ]
        assert_close(step, np.mean(projected, axis=0))
        assert cosines(gradients, step).min() > -TOLERANCE


@COUNTS
def test_config_has_the_same_cosine_to_every_gradient(count: int) -> None:
    for made in unequal_gradients(count):
        gradients, _, step = solve("config", made)
        found = cosines(gradients, step)
        assert found.min() > 0
        assert np.ptp(found) < TOLERANCE
        length = (gradients @ step).sum() / np.linalg.norm(step)
        assert np.linalg.norm(step) == pytest.approx(length, rel=TOLERANCE)


@COUNTS
def test_imtl_g_goes_as_far_along_every_gradient(count: int) -> None:
    for made in unequal_gradients(count):
        gradients, weights, step = solve("imtl-g", made)
        assert np.ptp(cosines(gradients, step)) < TOLERANCE
        assert weights.sum() == pytest.approx(1, abs=TOLERANCE * abs(weights).sum())
        assert_close(step, weights @ gradients)


@pytest.mark.parametrize("weighting", ["imtl-g", "config"])
def test_four_gradients_of_which_one_is_a_millionth_are_all_followed(weighting: str) -> None:
    every = torch.full((4, 4), -0.1).fill_diagonal_(1.0).double()
    made = torch.linalg.cholesky(every) * torch.tensor([[1e-6], [1.0], [1.0], [1.0]])
    gradients, _, step = solve(weighting, made.float())
    # A step with the cosine c to four units with inner products -0.1 has c = sqrt((1 - 3 * 0.1) / 4).
    assert cosines(gradients, step) == pytest.approx([np.sqrt(0.7 / 4)] * 4, abs=TOLERANCE)


@COUNTS
def test_aligned_mtl_is_the_sum_of_gradients_with_equal_principal_components(count: int) -> None:
    for made in unequal_gradients(count):
        gradients, _, step = solve("aligned-mtl", made)
        left, sizes, right = np.linalg.svd(gradients, full_matrices=False)
        assert_close(step, sizes[-1] * (left @ right).sum(0))


def assert_gains(gradients: Matrix, weights: Matrix, wanted: Matrix) -> None:
    """Check how far the weighted step goes along every gradient, relative to both lengths."""
    step = weights @ gradients
    lengths = np.linalg.norm(gradients, axis=1) * np.linalg.norm(step)
    assert abs((gradients @ step - wanted) / lengths).max() < TOLERANCE


@COUNTS
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fairgrad_solves_its_equation(count: int, alpha: float) -> None:
    for made in unequal_gradients(count):
        gradients, weights, _ = solve(f"fairgrad(alpha={alpha})", made)
        assert weights.min() > 0
        assert_gains(gradients, weights, weights ** (-1 / alpha))


@COUNTS
def test_nash_mtl_is_the_bargain(count: int) -> None:
    for made in unequal_gradients(count):
        gradients, weights, _ = solve("nash-mtl(max_norm=1e9)", made)
        assert weights.min() > 0
        assert_gains(gradients, weights, np.linalg.norm(gradients @ gradients.T) / weights)


@COUNTS
@pytest.mark.parametrize("weighting", ["pcgrad", "gradvac"])
def test_gradients_are_turned_one_after_the_other(weighting: str, count: int) -> None:
    for made in unequal_gradients(count):
        torch.manual_seed(0)
        gradients, _, step = solve(weighting, made)
        torch.manual_seed(0)
        total = np.zeros(WIDTH)
        for task, gradient in enumerate(gradients):
            others = [other for other in range(count) if other != task]
            order = (
                [other for other in torch.randperm(count).tolist() if other != task]
                if weighting == "pcgrad"
                else [others[place] for place in torch.randperm(count - 1).tolist()]
            )
            turned = gradient.copy()
            for other in order:  # in the first step GradVac's usual cosine is 0, as PCGrad's always is
                against = gradients[other] / np.linalg.norm(gradients[other])
                turned -= min(0.0, turned @ against) * against
            total += turned
        assert_close(step, total)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_gradvac_turns_a_short_gradient_to_the_usual_cosine(size: float) -> None:
    balancer = start("gradvac(decay=1.0)", 2)
    alike = torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.1, 0.3]])
    fixed(alike).run(balancer)
    usual = float(torch.cosine_similarity(*alike, dim=0))
    one, two = apart = torch.tensor([[size, 0.2 * size, 0.0], [-0.3, 2.0, 0.3]])
    weights, _, _ = fixed(apart).run(balancer)
    now = float(torch.cosine_similarity(one, two, dim=0))
    turn = usual * np.sqrt(1 - now**2) / np.sqrt(1 - usual**2) - now  # Eq. 2, for unit gradients
    ratio = float(one.norm() / two.norm())
    assert weights.tolist() == pytest.approx([1 + turn / ratio, 1 + turn * ratio], rel=1e-5)


def test_gradvac_remembers_a_pair_while_a_third_task_has_no_label() -> None:
    balancer = start("gradvac(decay=1.0)", 3)
    alike = torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.1, 0.3], [0.0, 0.0, 1.0]])
    fixed(alike).run(balancer)
    apart = torch.tensor([[1.0, 0.2, 0.0], [-0.3, 2.0, 0.3], [0.0, 0.0, 1.0]])
    weights, _, _ = fixed(apart, labeled=[True, True, False]).run(balancer)
    pair = start("gradvac(decay=1.0)", 2)
    fixed(alike[:2]).run(pair)
    wanted, _, _ = fixed(apart[:2]).run(pair)
    assert weights.tolist() == pytest.approx([*wanted.tolist(), 0])


# Gradients that are zero, identical or opposite


EAST, NORTH = torch.eye(2)


def test_gradients_far_below_single_precision_still_count() -> None:
    made = torch.stack([EAST, 1e-25 * NORTH])
    for weighting in ("mgda", "cagrad", "upgrad", "config", "imtl-g", "aligned-mtl", "gradvac"):
        _, weights, _ = solve(weighting, made)
        assert (weights > 0).all(), weighting


@pytest.mark.parametrize("weighting", ["mgda", "cagrad", "upgrad", "config", "imtl-g", "aligned-mtl"])
def test_a_gradient_of_zero_is_left_out(weighting: str) -> None:
    _, weights, step = solve(weighting, torch.stack([EAST, 0 * EAST, NORTH]))
    _, wanted, alone = solve(weighting, torch.stack([EAST, NORTH]))
    assert weights.tolist() == [wanted[0], 0, wanted[1]]
    assert np.array_equal(step, alone)


@pytest.mark.parametrize(
    ("weighting", "wanted"),
    [
        ("mgda", 0.1),
        ("cagrad", 1.4 * 0.55),
        ("upgrad", 0.55),
        ("config", 1.1),
        ("imtl-g", 2 * 0.1 / 1.1),  # the limit of the closed form of two: (|h| g + |g| h) / (|g| + |h|)
        ("aligned-mtl", 1.1),
    ],
)
def test_gradients_of_one_direction_are_added(weighting: str, wanted: float) -> None:
    _, weights, step = solve(weighting, torch.stack([EAST, 0.1 * EAST]))
    assert step == pytest.approx([wanted, 0], abs=1e-6)
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("shorter", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("weighting", "wanted"),
    [("mgda", 0.0), ("upgrad", 0.0), ("cagrad", None), ("config", None), ("imtl-g", None)],
)
def test_opposite_gradients(weighting: str, wanted: float | None, shorter: float) -> None:
    _, weights, step = solve(weighting, torch.stack([EAST, -shorter * EAST]))
    if weighting == "cagrad":  # the mean, less as much of it as the radius allows
        wanted = 0.6 * (1 - shorter) / 2
    assert step == pytest.approx([wanted or 0.0, 0], abs=1e-6)
    assert np.isnan(weights).all() if wanted is None else (weights > 0).all()


def test_cagrad_stays_nearest_to_the_mean_where_nothing_helps_all_tasks() -> None:
    _, weights, step = solve("cagrad", torch.stack([EAST, -EAST, NORTH]))
    assert step == pytest.approx([0, 1 / 3], abs=1e-6)
    assert weights == pytest.approx(np.full(3, 1 / 3))


@pytest.mark.parametrize("weighting", ["config", "imtl-g"])
def test_heads_are_trained_where_a_rule_has_no_answer(weighting: str) -> None:
    turns = torch.tensor([0.0, 2.0, 4.0]) * torch.pi / 3
    made = torch.stack([turns.cos(), turns.sin()], 1) * torch.tensor([[1.0], [0.1], [0.01]])
    weights, shared, heads = fixed(made).run(start(weighting, 3))
    assert weights.isnan().all()
    assert not shared.any()
    assert heads.tolist() == [1, 1, 1]
