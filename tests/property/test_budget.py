"""The seam where δ becomes released images, whatever an attack returns."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from bench.engine.stages.budget import apply_poison, largest_square, quantize_delta
from bench.errors import BenchError
from bench.memory import MAX_IMAGES
from bench.values import L2_VALUES, Batch, Budget, Split

CPU = torch.device("cpu")
LINF = Budget("linf", 8)
BUDGETS = (LINF, Budget("l2", 100.0))
"""One of each norm; of ℓ2 one that limits none of the images below."""
STEPS = (
    st.floats(-20, 20, width=32)
    | st.integers(-20, 20).map(float)
    | st.sampled_from([8.5, -8.5, 7.5, -7.5, 1e-30, 3e38, -3e38])
)
"""δ in steps of 1/255: around the budget, on the edges of rounding, and absurd."""


@dataclass(frozen=True, eq=False)
class Given:
    """Noise that returns what it is given."""

    make: Callable[[Batch], Tensor]

    def delta(self, batch: Batch) -> Tensor:
        return self.make(batch)


def table(delta: Tensor) -> Given:
    """One row of δ per image."""
    return Given(lambda batch: delta[batch.index])


@st.composite
def images_and_noise(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Images uint8 [n c h w], often black or white, and δ [n c h w] in steps of 1/255."""
    shape = tuple(draw(st.integers(1, top)) for top in (3, 3, 4, 4))
    pixels = st.integers(0, 255) | st.sampled_from([0, 1, 254, 255])
    images = draw(hnp.arrays(np.uint8, shape, elements=pixels))
    steps = draw(hnp.arrays(np.float32, shape, elements=STEPS))
    return torch.from_numpy(images), torch.from_numpy(steps)


@settings(max_examples=150, deadline=None)
@given(case=images_and_noise(), epsilon=st.integers(1, 16))
def test_any_finite_delta_is_released_rounded_within_budget_and_range(
    case: tuple[Tensor, Tensor], epsilon: int
) -> None:
    images, steps = case
    before = images.clone()
    noise = table((steps.double() / 255).float())
    change, statistics = quantize_delta(noise, Split(images, {}), Budget("linf", epsilon), CPU, "any")
    released = apply_poison(images, change, Budget("linf", epsilon), "any")

    assert change.dtype == torch.int8
    assert released.dtype == torch.uint8
    assert (released.int() - images.int()).abs().max() <= epsilon
    wanted = (images + steps.double().clamp(-epsilon, epsilon)).clamp(0, 255)
    assert ((released.double() - wanted).abs() <= 0.5 + 1e-4).all()
    assert statistics["linf"] == (released.int() - images.int()).abs().max()
    assert torch.equal(images, before)


@settings(max_examples=100, deadline=None)
@given(case=images_and_noise(), scale=st.sampled_from([1.0, 20.0, 1e30]))
def test_without_a_budget_the_range_of_the_image_is_the_only_limit(
    case: tuple[Tensor, Tensor], scale: float
) -> None:
    images, steps = case
    # The largest are absurd, but finite: what is not is refused.
    steps = (steps.double() * scale).clamp(-8e37, 8e37)
    change, statistics = quantize_delta(table((steps / 255).float()), Split(images, {}), None, CPU, "any")
    released = apply_poison(images, change, None, "any")
    assert change.dtype == torch.int16
    assert released.dtype == torch.uint8
    wanted = (images + steps).clamp(0, 255)
    assert ((released.double() - wanted).abs() <= 0.5 + 1e-3).all()
    assert statistics["linf"] == (released.int() - images.int()).abs().max()
    assert statistics["clamped"] is None


def test_without_a_budget_black_may_turn_white_and_white_black() -> None:
    images = torch.tensor([0, 255, 100], dtype=torch.uint8).view(3, 1, 1, 1)
    wish = torch.tensor([400.0, -400.0, 30.0]).view(3, 1, 1, 1) / 255
    change, statistics = quantize_delta(table(wish), Split(images, {}), None, CPU, "any")
    assert change.flatten().tolist() == [255, -255, 30]
    assert apply_poison(images, change, None, "any").flatten().tolist() == [255, 0, 130]
    assert statistics["linf"] == 255
    assert statistics["psnr"] == pytest.approx(10 * math.log10(255**2 * 3 / (2 * 255**2 + 900)))


def test_what_rounding_undoes_is_counted() -> None:
    images = torch.full((1, 1, 1, 8), 100, dtype=torch.uint8)
    wish = torch.tensor([0.3, -0.45, 0.0, 1e-5, 0.55, -3.0, 9.0, 0.2]).view(1, 1, 1, 8) / 255
    for budget in (*BUDGETS, None):
        _, statistics = quantize_delta(table(wish), Split(images, {}), budget, CPU, "any")
        assert statistics["lost_to_rounding"] == 3 / 8


@settings(max_examples=60, deadline=None)
@given(case=images_and_noise(), epsilon=st.integers(1, 16))
def test_the_statistics_are_those_of_the_released_images(case: tuple[Tensor, Tensor], epsilon: int) -> None:
    images, steps = case
    change, statistics = quantize_delta(
        table(steps / 255), Split(images, {}), Budget("linf", epsilon), CPU, "any"
    )
    moved = change.numpy().astype(np.float64)
    square = np.mean(moved**2)
    assert statistics["l0"] == pytest.approx(np.mean(moved != 0))
    assert statistics["l2"] == pytest.approx(
        np.mean([np.linalg.norm(one.ravel() / 255) for one in moved]), rel=1e-5
    )
    if square:
        assert statistics["psnr"] == pytest.approx(10 * math.log10(255**2 / square))
    else:
        assert statistics["psnr"] is None
    beyond = (steps.abs() > epsilon + 0.501).float().mean()
    at_most = (steps.abs() > epsilon + 0.499).float().mean()
    clamped = statistics["clamped"]
    assert clamped is not None
    assert float(beyond) - 1e-6 <= clamped <= float(at_most) + 1e-6


@settings(max_examples=100, deadline=None)
@given(
    images=hnp.arrays(np.uint8, (2, 1, 2, 2)),
    change=hnp.arrays(np.int8, (2, 1, 2, 2), elements=st.integers(-10, 10) | st.sampled_from([-128, 127])),
    epsilon=st.integers(1, 10),
)
def test_the_audit_lets_through_what_is_within_budget_and_range_and_nothing_else(
    images: np.ndarray, change: np.ndarray, epsilon: int
) -> None:
    moved = images.astype(int) + change.astype(int)
    fine = (np.abs(change.astype(int)) <= epsilon).all() and (moved >= 0).all() and (moved <= 255).all()
    clean, steps = torch.from_numpy(images), torch.from_numpy(change)
    if fine:
        assert np.array_equal(apply_poison(clean, steps, Budget("linf", epsilon), "any").numpy(), moved)
    else:
        with pytest.raises(BenchError, match=f"'any' breaks the budget of {epsilon}/255"):
            apply_poison(clean, steps, Budget("linf", epsilon), "any")


@pytest.mark.parametrize("change", [101, -101, 32767, -32768])
def test_without_a_budget_the_audit_still_holds_the_range(change: int) -> None:
    images = torch.full((2, 1, 2, 2), 155, dtype=torch.uint8)
    images[1] = 100
    steps = torch.zeros(images.shape, dtype=torch.int16)
    steps[:, 0, 0, 0] = change
    with pytest.raises(BenchError, match="the poison of 'ops' leaves the image's range"):
        apply_poison(images, steps, None, "ops")
    steps.clamp_(-100, 100)
    assert torch.equal(apply_poison(images, steps, None, "ops").int(), images.int() + steps)
    with pytest.raises(BenchError, match="'em' breaks the budget of 8/255"):
        apply_poison(images, steps, LINF, "em")


@pytest.mark.parametrize("rows", [1, MAX_IMAGES, MAX_IMAGES + 1, 2 * MAX_IMAGES + 3])
def test_nothing_depends_on_the_images_that_are_worked_on_together(rows: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    images = torch.randint(0, 256, (rows, 1, 2, 2), generator=draw).to(torch.uint8)
    delta = torch.randn(images.shape, generator=draw) * 6 / 255
    change, statistics = quantize_delta(table(delta), Split(images, {}), LINF, CPU, "any")
    clean = images.float()
    wanted = (clean + (delta * 255).round().clamp(-8, 8)).clamp(0, 255)
    assert torch.equal(apply_poison(images, change, LINF, "any").float(), wanted)
    assert statistics["l2"] == pytest.approx(
        float(((wanted - clean) / 255).flatten(1).norm(dim=1).mean()), rel=1e-5
    )


@pytest.mark.parametrize("budget", [*BUDGETS, None], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_name(bad: float, budget: Budget | None) -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    delta = torch.zeros(images.shape)
    delta[2, 0, 1, 1] = bad
    with pytest.raises(BenchError, match="attack 'em\\(steps=3\\)' returned δ with NaN or infinite values"):
        quantize_delta(table(delta), Split(images, {}), budget, CPU, "em(steps=3)")


@pytest.mark.parametrize("budget", [*BUDGETS, None], ids=str)
@pytest.mark.parametrize("shape", [(3, 1, 2, 3), (3, 3, 2, 2), (1, 1, 2, 2), (3, 2, 2), ()])
def test_delta_of_another_shape_is_refused_by_name_even_if_it_broadcasts(
    shape: tuple[int, ...], budget: Budget | None
) -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(BenchError, match="attack 'em' returned δ of shape"):
        quantize_delta(Given(lambda batch: torch.zeros(shape)), Split(images, {}), budget, CPU, "em")


@pytest.mark.parametrize("budget", [*BUDGETS, None], ids=str)
@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (None, "attack 'em' returned NoneType, which has no delta"),
        (torch.zeros(3, 1, 2, 2), "attack 'em' returned Tensor, which has no delta"),
        (Given(lambda batch: None), "attack 'em' returned δ of type NoneType"),  # type: ignore[arg-type, return-value]
        (Given(lambda batch: 0.0), "attack 'em' returned δ of type float"),  # type: ignore[arg-type, return-value]
    ],
)
def test_an_attack_that_returns_nothing_is_refused_by_name(
    noise: Any, message: str, budget: Budget | None
) -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(BenchError, match=message):
        quantize_delta(noise, Split(images, {}), budget, CPU, "em")


def test_poison_made_for_other_images_is_refused() -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(BenchError, match="the poison of 'em' was made for images"):
        apply_poison(images, torch.zeros(2, 1, 2, 2, dtype=torch.int8), LINF, "em")


def test_without_a_change_the_clean_images_are_released() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2)
    assert torch.equal(apply_poison(images, None, LINF, "clean"), images)


def test_an_attack_that_writes_into_its_batch_moves_no_more_than_it_returns() -> None:
    """δ is added to the images of the split, not to what an attack left in the batch."""
    images = torch.full((3, 1, 2, 2), 250, dtype=torch.uint8)

    def careless(batch: Batch) -> Tensor:
        batch.images.add_(20 / 255).clamp_(0, 1)
        return torch.full_like(batch.images, 5 / 255)

    change, _ = quantize_delta(Given(careless), Split(images, {}), LINF, CPU, "careless")
    assert torch.equal(change, torch.full_like(change, 5))


# A budget for the norm of an image's change


def squared_norms(change: Tensor) -> list[int]:
    """Return every image's squared norm in steps of 1/255, as exact as Python's integers."""
    return [sum(value * value for value in image) for image in change.flatten(1).tolist()]


@settings(max_examples=150, deadline=None)
@given(
    case=images_and_noise(),
    epsilon=st.sampled_from([1e-6, 0.01, 0.25, 1.0, 2.0, 55.0]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e30]),
)
def test_no_released_image_is_further_away_than_the_norm_allows(
    case: tuple[Tensor, Tensor], epsilon: float, scale: float
) -> None:
    images, steps = case
    steps = (steps.double() * scale).clamp(-8e37, 8e37)
    budget = Budget("l2", epsilon)
    change, statistics = quantize_delta(table((steps / 255).float()), Split(images, {}), budget, CPU, "any")
    released = apply_poison(images, change, budget, "any")
    moved = released.int() - images.int()

    assert change.dtype == torch.int16
    assert torch.equal(moved, change.int())
    limit = (255 * epsilon) ** 2 * images[0].numel() / L2_VALUES
    assert all(square <= limit for square in squared_norms(moved))
    assert (moved.abs() <= steps.abs() + 0.501).all()
    assert ((moved == 0) | (moved.sign() == steps.sign())).all()
    assert statistics["clamped"] is None
    beyond, at_most = (
        float((steps.clamp(-255, 255).flatten(1).norm(dim=1) > math.sqrt(limit // 1) + edge).float().mean())
        for edge in (2e-3, 5e-4)
    )
    scaled = statistics["scaled"]
    assert scaled is not None
    assert beyond - 1e-6 <= scaled <= at_most + 1e-6


@pytest.mark.parametrize("norm", [0.4, 1.0, 3.0])
def test_noise_longer_than_the_budget_is_scaled_down_and_uses_nearly_all_of_it(norm: float) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    delta = torch.randn(images.shape, generator=draw)
    delta *= norm / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    change, statistics = quantize_delta(table(delta), Split(images, {}), Budget("l2", 1.0), CPU, "any")
    norms = change.double().flatten(1).norm(dim=1) / 255
    assert (norms <= 1).all()
    assert norms.numpy() == pytest.approx(min(norm, 1.0), rel=0.02)
    assert statistics["scaled"] == (norm > 1)
    assert torch.cosine_similarity(change.flatten(1).float(), delta.flatten(1)).min() > 0.97


def test_short_noise_is_only_rounded() -> None:
    images = torch.full((1, 1, 1, 4), 100, dtype=torch.uint8)
    wish = torch.tensor([1.4, -1.6, 0.4, 0.0]).view(1, 1, 1, 4) / 255
    budget = Budget("l2", 3 * math.sqrt(L2_VALUES / 4) / 255)  # three steps for four values
    change, statistics = quantize_delta(table(wish), Split(images, {}), budget, CPU, "any")
    assert change.flatten().tolist() == [1, -2, 0, 0]
    assert statistics["scaled"] == 0


def test_rounding_that_makes_noise_too_long_is_taken_back() -> None:
    """Three values of 1.6 have a norm of 2.77 steps; rounded to 2 each they would have 3.46."""
    images = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    wish = torch.full((1, 3, 1, 1), 1.6) / 255
    budget = Budget("l2", 3 * math.sqrt(L2_VALUES / 3) / 255)
    change, statistics = quantize_delta(table(wish), Split(images, {}), budget, CPU, "any")
    assert change.flatten().tolist() == [1, 1, 1]
    assert statistics["scaled"] == 0


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 1, 1), (2, 1, 9, 7), (1, 3, 64, 64)])
def test_the_budget_of_a_norm_grows_with_the_square_root_of_the_values(shape: tuple[int, ...]) -> None:
    values = math.prod(shape[1:])
    images = torch.zeros(shape, dtype=torch.uint8)
    change, _ = quantize_delta(
        Given(lambda batch: torch.ones(shape)), Split(images, {}), Budget("l2", 1.0), CPU, "any"
    )
    # 255 / √3072 = 4.6 steps of every value, whatever the number of values
    assert (change == 4).all()
    assert largest_square(Budget("l2", 1.0), values) == math.floor(65025 * values / 3072)


def test_a_budget_below_one_step_changes_nothing() -> None:
    images = torch.full((2, 1, 1, 1), 7, dtype=torch.uint8)
    budget = Budget("l2", 0.2)  # 0.92 steps
    change, statistics = quantize_delta(
        Given(lambda batch: torch.ones(2, 1, 1, 1)), Split(images, {}), budget, CPU, "any"
    )
    assert not change.any()
    assert statistics["scaled"] == statistics["lost_to_rounding"] == 1


@settings(max_examples=100, deadline=None)
@given(
    change=hnp.arrays(np.int16, (2, 1, 2, 2), elements=st.integers(-4, 4) | st.sampled_from([-9, 100])),
    square=st.integers(1, 40),
)
def test_the_audit_of_a_norm_lets_through_what_is_within_it_and_nothing_else(
    change: np.ndarray, square: int
) -> None:
    images, steps = torch.full((2, 1, 2, 2), 128, dtype=torch.uint8), torch.from_numpy(change)
    budget = Budget("l2", math.sqrt((square + 0.5) * L2_VALUES / 4) / 255)
    if max(squared_norms(steps)) <= square:
        assert torch.equal(apply_poison(images, steps, budget, "any").int(), images.int() + steps)
    else:
        with pytest.raises(BenchError, match="'any' breaks the budget of ℓ2 norm"):
            apply_poison(images, steps, budget, "any")
